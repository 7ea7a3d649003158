"""The entries of a unit, in one .ckpt file or, beyond a size, in several: its parts.

``mindspore.load_checkpoint`` reads no file of 2 GiB or more, so a part holds at most 1 GiB. A unit
that is no larger is one file. In a larger one an entry stays whole where it can. An entry that is
larger than a part is cut by rows, and each piece is an entry of its part. Its name says in NumPy's
notation which piece it is: ``embedding_table[0:6000000]`` in one part and
``embedding_table[6000000:10000000]`` in the next. If one row is larger than a part, the row is cut
too: ``name[3,0:1000]``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.checkpoints.ckpt_file import CkptFileError, read_ckpt
from src.checkpoints.unit import CheckpointError, Unit, manifest_path_of, part_path
from src.process.arrays import Array

VOCABULARY = "vocabulary"
"""The entry of a unit, uint8, that holds the grown vocabulary; it is no parameter."""
PART_BYTES = 1 << 30
PIECE = re.compile(r"(?P<entry>.+)\[(?P<rows>(?:\d+,)*)(?P<begin>\d+):(?P<end>\d+)\]", re.DOTALL)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Which entries and pieces go into which part.

    Attributes:
        parts: For each part, its entries by name.
        cut: The shapes of the entries that are cut.
    """

    parts: Sequence[Mapping[str, Array]]
    cut: Mapping[str, Shape]


def plan_parts(entries: Mapping[str, Array], part_bytes: int) -> Plan:
    """Distributes entries to parts of at most so many bytes, in their order.

    Args:
        entries: Name → content; what is planned are views of them.
        part_bytes: The content of a part; names and dimensions come on top. An element of an entry
            must fit.
    """
    parts: list[dict[str, Array]] = [{}]
    cut: dict[str, Shape] = {}
    room = part_bytes
    for name, array in entries.items():
        pieces: Iterator[tuple[str, Array]] = iter([(name, array)])
        if array.nbytes > part_bytes:
            cut[name] = array.shape
            pieces = _pieces(name, array, part_bytes)
        for piece_name, piece in pieces:
            if piece.nbytes > room and parts[-1]:
                parts.append({})
                room = part_bytes
            parts[-1][piece_name] = piece
            room -= piece.nbytes
    return Plan(parts, cut)


def _pieces(name: str, array: Array, most: int, rows: str = "") -> Iterator[tuple[str, Array]]:
    """(name, piece) of an array, each of at most so many bytes and contiguous."""
    at_once = most // (math.prod(array.shape[1:]) * array.itemsize)
    if at_once:
        for begin in range(0, len(array), at_once):
            end = min(begin + at_once, len(array))
            yield f"{name}[{rows}{begin}:{end}]", array[begin:end]
    else:
        for number, row in enumerate(array):
            yield from _pieces(name, row, most, f"{rows}{number},")


def load(unit: Unit, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Array]:
    """A unit's entries by name, those of all its parts and put together.

    Args:
        unit: The unit.
        wanted: Whether to read the entry of a name.

    Raises:
        CheckpointError: A file can't be read, or a piece is missing.
    """
    reader = _Reader(unit.cut, wanted)
    for path in unit.files:
        reader.read(path)
    lacking = reader.lacking()
    if lacking:
        raise CheckpointError(f"{unit.path}: pieces of {', '.join(lacking)} are missing")
    return reader.entries


def load_file(path: Path) -> dict[str, Array]:
    """The entries of a .ckpt file that has no manifest.

    Raises:
        CheckpointError: It can't be read, or is a part of a unit.
    """
    reader = _Reader({}, lambda _: True)
    reader.read(path)
    is_part = manifest_path_of(path) != path.with_suffix(".json") or part_path(path, 2).exists()
    if is_part or any(map(PIECE.fullmatch, reader.entries)):
        raise CheckpointError(
            f"{path} is one part of a checkpoint, and its manifest {manifest_path_of(path).name} "
            "is not beside it"
        )
    return reader.entries


class _Reader:
    """Reads .ckpt files into arrays, the pieces of an entry into one."""

    def __init__(self, cut: Mapping[str, Shape], wanted: Callable[[str], bool]) -> None:
        self._cut = cut
        self._wanted = wanted
        self._filled: dict[str, int] = {}
        self.entries: dict[str, Array] = {}

    def read(self, path: Path) -> None:
        """Reads a file.

        Raises:
            CheckpointError: It can't be read.
        """
        try:
            read_ckpt(path, self._place)
        except (OSError, IndexError, CkptFileError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"{path}: {reason}") from None

    def lacking(self) -> list[str]:
        """The entries of which pieces are missing."""
        return [name for name, filled in self._filled.items() if filled < self.entries[name].nbytes]

    def _place(self, name: str, shape: Shape, dtype: np.dtype[np.generic]) -> Array | None:
        """Where an entry of a file is to be read into."""
        piece = PIECE.fullmatch(name)
        if piece is None or piece["entry"] not in self._cut:
            if not self._wanted(name):
                return None
            self.entries[name] = np.empty(shape, dtype)
            return self.entries[name]
        entry = piece["entry"]
        if not self._wanted(entry):
            return None
        if entry not in self.entries:
            self.entries[entry] = np.empty(self._cut[entry], dtype)
        index: list[int | slice] = [int(number) for number in piece["rows"].split(",")[:-1]]
        index.append(slice(int(piece["begin"]), int(piece["end"])))
        found: Array = self.entries[entry][tuple(index)]
        if (found.shape, found.dtype) != (shape, dtype):
            raise CkptFileError(f"{name} has shape {shape} and type {dtype}")
        self._filled[entry] = self._filled.get(entry, 0) + found.nbytes
        return found


def read_vocabulary(unit: Unit) -> bytes | None:
    """The grown vocabulary in a unit; None where it has none.

    Raises:
        CheckpointError: The file can't be read.
    """
    entry = load(unit, lambda name: name == VOCABULARY).get(VOCABULARY)
    return None if entry is None else entry.tobytes()
