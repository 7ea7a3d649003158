"""Compressed bytes become plain ones. The format is found by the first bytes, not by the name."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Callable

import zstandard

MOST_PLAIN_BYTES = 1 << 20
"""The most bytes of a gzip file that become one piece, however well they were compressed."""
_HEAD_BYTES = 8
_ZSTD_FEED_BYTES = 1 << 10  # a few bytes can become a block of 128 KiB, so it is fed little
_GZIP_WITH_HEADER = 31  # zlib's ``wbits``

_GZIP = (b"\x1f\x8b",)
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60)))
_OTHER_FORMATS = (
    ((b"BZh",), "a bzip2 file: unpack it (bunzip2) or make it a gzip file"),
    ((b"\xfd7zXZ\x00",), "an xz file: unpack it (unxz) or make it a gzip file"),
    ((b"\x04\x22\x4d\x18",), "an lz4 file: unpack it (unlz4) or make it a gzip file"),
    ((b"\xff\x06\x00\x00sN",), "a snappy file: unpack it or make it a gzip file"),
    ((b"\x1f\x9d", b"\x1f\xa0"), "a file of compress: unpack it (uncompress)"),
    ((b"\x89LZO",), "an lzop file: unpack it (lzop -d)"),
    ((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"), "a zip file: unpack it (unzip)"),
    ((b"7z\xbc\xaf\x27\x1c",), "a 7z file: unpack it"),
    ((b"Rar!",), "a rar file: unpack it"),
    ((b"PAR1",), "a parquet file: write its rows as tab-separated lines"),
    ((b"ORC",), "an ORC file: write its rows as tab-separated lines"),
    ((b"Obj\x01",), "an Avro file: write its rows as tab-separated lines"),
    ((b"ARROW1",), "an Arrow file: write its rows as tab-separated lines"),
    ((b"\x89HDF",), "an HDF5 file: write its rows as tab-separated lines"),
    ((b"\x93NUMPY",), "a NumPy file: write its rows as tab-separated lines"),
    ((b"\xd0\xcf\x11\xe0",), "an Excel file: write its rows as tab-separated lines"),
    ((b"SQLite f",), "an SQLite file: write its rows as tab-separated lines"),
    ((b"version ",), "a pointer of Git LFS, not the file itself: run git lfs pull"),
)

Unpack = Callable[[Iterable[bytes]], Iterator[bytes]]


class CompressionError(ValueError):
    """The bytes can't be made plain ones; one line says why."""


def plain_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a plain, gzip or zstd file, as plain ones.

    A gzip file may have several members and a zstd file several frames.

    Args:
        pieces: The file's bytes, as they come.

    Raises:
        CompressionError: The data are cut off or damaged, are compressed twice, or are of a format
            that is not read.
    """
    head, pieces = _with_head(pieces)
    unpack = _unpack_for(head)
    if unpack is not None:
        head, pieces = _with_head(unpack(pieces))
        if _unpack_for(head) is not None:
            raise CompressionError("compressed twice: unpack it once")
    for marks, what in _OTHER_FORMATS:
        if head.startswith(marks):
            raise CompressionError(what)
    yield from pieces


def _with_head(pieces: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """(at least 8 bytes, or all if there are fewer; all pieces, these bytes included)."""
    rest, head = iter(pieces), b""
    while len(head) < _HEAD_BYTES and (piece := next(rest, b"")):
        head += piece
    return head, chain([head] if head else [], rest)


def _unpack_for(head: bytes) -> Unpack | None:
    if head.startswith(_GZIP):
        return _gunzip
    return _unzstd if head.startswith(_ZSTD) else None


def _gunzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    member = None
    for data in pieces:
        while data:
            if member is None:
                data = data.lstrip(b"\x00")  # members may be padded
                if not data:
                    break
                member = zlib.decompressobj(_GZIP_WITH_HEADER)
            try:
                plain = member.decompress(data, MOST_PLAIN_BYTES)
            except zlib.error as error:
                raise CompressionError(f"the gzip data are damaged: {error}") from None
            if plain:
                yield plain
            if member.eof:
                data, member = member.unused_data, None
            else:
                data = member.unconsumed_tail
    if member is not None:
        raise _cut_off("gzip")


def _unzstd(pieces: Iterable[bytes]) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    for piece in pieces:
        for begin in range(0, len(piece), _ZSTD_FEED_BYTES):
            data = piece[begin : begin + _ZSTD_FEED_BYTES]
            while data:
                frame = frame or decompressor.decompressobj()
                try:
                    plain = frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise CompressionError(f"the zstd data are damaged: {error}") from None
                if plain:
                    yield plain
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise _cut_off("zstd")


def _cut_off(name: str) -> CompressionError:
    return CompressionError(f"the {name} data end too early: cut off, or not yet complete")
