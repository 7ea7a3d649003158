"""MindSpore's .ckpt files: arrays are written, and read into, with no whole copy in between.

A file is a chain of protobuf messages, one for each entry (``checkpoint.proto`` of MindSpore): its
name, dimensions, type and content. ``mindspore.load_checkpoint`` parses the chain as one message,
which crashes the process from 2 GiB on. It holds several copies of all entries, and so does
``mindspore.save_checkpoint``. Here content goes from memory to disk, or back, as it is.

What is written equals what ``save_checkpoint`` writes, byte for byte, up to 512 MB an entry. From
there on MindSpore cuts an entry into several messages, and here it stays one.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Optional

import numpy as np

from src.checkpoints.uncached_file import new_uncached_file
from src.process.arrays import Array

_DTYPES = {
    f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits}")
    for kind, sizes in (
        ("Int", (8, 16, 32, 64)),
        ("UInt", (8, 16, 32, 64)),
        ("Float", (16, 32, 64)),
    )
    for bits in sizes
} | {"Bool": np.dtype(bool)}
_TYPES = {dtype: name for name, dtype in _DTYPES.items()}

# Protobuf: a field's number and wire type, 0 for a whole number, 2 for bytes with their length.
_VALUE = _NAME = 1 << 3 | 2
_TENSOR = _TYPE = 2 << 3 | 2
_CONTENT = 3 << 3 | 2
_DIMENSION = 1 << 3
_LONGEST_TEXT = 1 << 16

Place = Callable[[str, "tuple[int, ...]", "np.dtype[np.generic]"], Optional[Array]]


class CkptFileError(ValueError):
    """The bytes are no .ckpt file; the message says what is wrong, and not in which file."""


@dataclass(frozen=True)
class Written:
    """What was written: the number of bytes and their CRC-32C."""

    bytes: int
    checksum: int


def type_name(dtype: np.dtype[np.generic]) -> str:
    """MindSpore's name of a type, such as ``Float32``."""
    return _TYPES[dtype]


def write_ckpt(path: Path, entries: Mapping[str, Array]) -> Written:
    """Writes a new file, read-only as MindSpore's and durable on return.

    Args:
        path: The file; there must be none yet.
        entries: Name → content.

    Raises:
        OSError: It can't be written.
    """
    with new_uncached_file(path) as file:
        for name, array in entries.items():
            file.append(np.frombuffer(_header(name, array), np.uint8))
            file.append(bytes_of(np.ascontiguousarray(array)))
        path.chmod(stat.S_IRUSR)
        file.finish()
    return Written(file.bytes, file.checksum)


def places_in_file(entries: Mapping[str, Array]) -> dict[str, int]:
    """Name → the byte at which the entry's content begins in a file of these entries.

    Args:
        entries: Name → an array of the content's shape and type.
    """
    places = {}
    end = 0
    for name, array in entries.items():
        places[name] = end + len(_header(name, array))
        end = places[name] + array.nbytes
    return places


def read_ckpt(path: Path, place: Place) -> None:
    """Reads a file's entries into arrays.

    Args:
        path: The file.
        place: Called with an entry's name, shape and type. It returns the array to fill, which is
            contiguous and of as many elements; or None to pass over the entry.

    Raises:
        OSError: The file can't be read.
        CkptFileError: It is no .ckpt file.
    """
    room: dict[str, memoryview | None] = {}  # name → what is still to be filled of its array
    size = path.stat().st_size
    with open(path, "rb") as file:
        while file.tell() < size:
            name, shape, dtype, length = _read_header(file, size)
            if name not in room:
                array = place(name, shape, dtype)
                room[name] = None if array is None else bytes_of(array).data
            rest = room[name]
            if rest is None:
                file.seek(length, os.SEEK_CUR)
                continue
            # An entry beyond 512 MB is cut into several messages by MindSpore.
            if length > len(rest) or file.readinto(rest[:length]) < length:
                raise CkptFileError(f"{name} has more content than its dimensions say")
            room[name] = rest[length:]
    for name, rest in room.items():
        if rest:
            raise CkptFileError(f"{name} lacks {len(rest)} bytes")


def bytes_of(array: Array) -> Array:
    """A contiguous array's memory, uint8[n]."""
    return array.reshape(-1).view(np.uint8)


# --- messages: Checkpoint(value=Value(name, tensor=Tensor(dimensions, type, content))) ---


def _header(name: str, array: Array) -> bytes:
    """All of an entry's message that comes before its content."""
    # A scalar's dimension is 0 in these files.
    dimensions = b"".join(_number(_DIMENSION) + _number(size) for size in array.shape or (0,))
    kind = type_name(array.dtype).encode()
    before = dimensions + _number(_TYPE) + _number(len(kind)) + kind
    before += _number(_CONTENT) + _number(array.nbytes)
    tensor = _number(_TENSOR) + _number(len(before) + array.nbytes) + before
    encoded = name.encode()
    value = _number(_NAME) + _number(len(encoded)) + encoded + tensor
    return _number(_VALUE) + _number(len(value) + array.nbytes) + value


def _number(value: int) -> bytes:
    """A whole number in protobuf's variable length: 7 bits a byte, the lowest first."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _read_header(
    file: BinaryIO, size: int
) -> tuple[str, tuple[int, ...], np.dtype[np.generic], int]:
    """(name, shape, type, bytes of the content) of the next message; the content comes next."""
    _read_field(file, _VALUE)
    name = _read_text(file, _NAME)
    _read_field(file, _TENSOR)
    shape: list[int] = []
    while (field := _read_number(file)) == _DIMENSION:
        shape.append(_read_number(file))
    if field != _TYPE:
        raise CkptFileError(f"unexpected field {field} in {name!r}")
    kind = _read_text(file, None)
    length = _read_field(file, _CONTENT)
    if length > size - file.tell():
        raise CkptFileError(f"it ends within {name!r}")
    if kind == "str":
        return name, (), np.dtype(f"<U{max(length // 4, 1)}"), length
    if kind not in _DTYPES:
        raise CkptFileError(f"{name!r} is of the unknown type {kind!r}")
    dtype = _DTYPES[kind]
    shape = [] if shape == [0] else shape
    if math.prod(shape) * dtype.itemsize > size:
        raise CkptFileError(f"{name!r} has dimensions {shape}, which is more than the file holds")
    return name, tuple(shape), dtype, length


def _read_field(file: BinaryIO, expected: int) -> int:
    """The length of a field, or the value of a number, whose kind is known."""
    field = _read_number(file)
    if field != expected:
        raise CkptFileError(f"unexpected field {field} at byte {file.tell()}")
    return _read_number(file)


def _read_text(file: BinaryIO, field: int | None) -> str:
    length = _read_number(file) if field is None else _read_field(file, field)
    text = file.read(min(length, _LONGEST_TEXT))
    if len(text) < length:
        raise CkptFileError(f"it ends within a name, or the name is too long, at {file.tell()}")
    return text.decode(errors="replace")


def _read_number(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        digit = file.read(1)
        if not digit:
            raise CkptFileError(f"it ends at byte {file.tell()}, within a message")
        value |= (digit[0] & 0x7F) << shift
        if digit[0] < 0x80:
            return value
    raise CkptFileError(f"a number is too long at byte {file.tell()}")
