"""A new file that is written past the kernel's page cache.

Nobody reads a checkpoint soon after it is written. In the cache it would take memory from others,
and the kernel's time: up to a second for 240 MB, while training wants the CPU. Where the file
system knows no such writes (``O_DIRECT``), the cache is used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from crc32c import crc32c

from src.process.arrays import Array

BUFFER_BYTES = 1 << 22
PIECE_BYTES = 1 << 18
"""What is copied and then summed up at a time; it stays in the CPU's cache in between."""
BLOCK_BYTES = 1 << 12
"""Such a write begins and ends at a multiple of the disk's blocks, which are no larger."""


class UncachedFile:
    """Collects bytes and writes them in large blocks.

    Args:
        descriptor: The new file.

    Attributes:
        bytes: How many were appended.
        checksum: Their CRC-32C.
    """

    def __init__(self, descriptor: int) -> None:
        self.bytes = self.checksum = 0
        self._descriptor = descriptor
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)  # begins at a block, as it must
        self._room = np.frombuffer(self._buffer, np.uint8)
        self._filled = 0

    def append(self, data: Array) -> None:
        """Appends uint8[n].

        What lies in its block of memory as it will lie in a block of the file is written from where
        it is. All else is copied first, which takes some CPU time from training.

        Raises:
            OSError: It can't be written.
        """
        begin = -self.bytes % BLOCK_BYTES
        end = len(data) - (self.bytes + len(data)) % BLOCK_BYTES
        if end - begin >= PIECE_BYTES and (data.ctypes.data + begin) % BLOCK_BYTES == 0:
            self._collect(data[:begin])
            self._write_collected()
            self._write_from_memory(data[begin:end])
            data = data[end:]
        self._collect(data)

    def finish(self) -> None:
        """Writes the rest, and returns when all of the file is durable.

        Raises:
            OSError: It can't be written.
        """
        surplus = -self._filled % BLOCK_BYTES
        self._filled += surplus
        self._write_collected()
        if surplus:
            os.ftruncate(self._descriptor, self.bytes)
        os.fsync(self._descriptor)

    def _collect(self, data: Array) -> None:
        while len(data):
            piece = self._room[self._filled : self._filled + PIECE_BYTES][: len(data)]
            np.copyto(piece, data[: len(piece)])  # other threads run meanwhile
            self.checksum = crc32c(piece.data, self.checksum)
            self.bytes += len(piece)
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == BUFFER_BYTES:
                self._write_collected()

    def _write_collected(self) -> None:
        self._write(memoryview(self._buffer)[: self._filled])
        self._filled = 0

    def _write_from_memory(self, data: Array) -> None:
        for begin in range(0, len(data), BUFFER_BYTES):
            piece = data[begin : begin + BUFFER_BYTES]
            self.checksum = crc32c(piece.data, self.checksum)
            self.bytes += len(piece)
            self._write(piece.data)

    def _write(self, rest: memoryview) -> None:
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not _use_cache(self._descriptor):
                    raise


@contextlib.contextmanager
def new_uncached_file(path: Path) -> Iterator[UncachedFile]:
    """Makes a file, which must not exist, and closes it at the end.

    Raises:
        OSError: It can't be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # The file may have been made all the same.
        descriptor = os.open(path, flags & ~os.O_EXCL, 0o666)
    try:
        yield UncachedFile(descriptor)
    finally:
        os.close(descriptor)


def _use_cache(descriptor: int) -> bool:
    """Has later writes go through the cache; returns whether they did not before."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)
