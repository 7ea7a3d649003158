"""A file of rows: opened once and read once, from its beginning to its end."""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import reduction
from types import TracebackType
from typing import Any, Callable

from src.process.files import PathLike
from src.rows.compression import CompressionError, plain_pieces
from src.rows.first_line import fault_without_end, first_line_fault
from src.rows.line_blocks import MAX_LINE_BYTES, LineBlock, line_blocks

logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"
_READ_BYTES = 1 << 18
_FIRST_READ_BYTES = 1 << 14  # little, as a new process gets them through a pipe of 64 KiB
_LOOK_MILLISECONDS = 100  # how often a waiting read looks whether it should stop


class RowFileError(ValueError):
    """A file can't be read as rows; one line names it and says why."""


class ReadStopped(Exception):  # noqa: N818 - a requested stop is no error
    """A stop was asked for while a pipe had nothing to read."""


def never() -> bool:
    """Nothing asks for a stop."""
    return False


class OpenedFile:
    """A plain file, a gzip or zstd file, standard input or a named pipe, for one reader.

    The format is found by the first bytes. Lines come as soon as they are complete, so the other
    end of a pipe may write slowly. The object can be given to a new process, which goes on.

    Args:
        path: The file; ``-`` is standard input.

    Attributes:
        name: For messages.
        size: Bytes of the file as it is stored; None for a pipe.
        bytes_read: How many of them were read.

    Raises:
        RowFileError: The file can't be opened.
    """

    def __init__(self, path: PathLike) -> None:
        is_standard_input = str(path) == STANDARD_INPUT
        self.name = "standard input" if is_standard_input else str(path)
        self.bytes_read = 0
        self._head = b""  # was read from a pipe for the first line, and is to be read again
        if is_standard_input and sys.__stdin__ is None:
            raise RowFileError(
                "standard input is closed"
            )  # its number may be another file's by now
        with self._named_errors():
            # A named pipe without a writer would block the call, whatever signals come.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self._number = os.dup(0) if is_standard_input else os.open(path, flags)
            status = os.fstat(self._number)
        if stat.S_ISDIR(status.st_mode):
            self.close()
            raise RowFileError(f"{self.name}: is a directory")
        self.is_regular = stat.S_ISREG(status.st_mode)
        self.size = status.st_size if self.is_regular else None
        self._begin = os.lseek(self._number, 0, os.SEEK_CUR) if self.is_regular else 0
        self.identity = (status.st_dev, status.st_ino)
        if os.isatty(self._number):
            logger.warning("%s is a terminal: type rows; Ctrl-D at a line's begin ends", self.name)

    def __enter__(self) -> OpenedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Used when a process is spawned: the process gets the same open file."""
        return {**self.__dict__, "_number": reduction.DupFd(self._number)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._number = state["_number"].detach()

    def close(self) -> None:
        """Closes it in this process."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1

    def check_first_line(self, stopped: Callable[[], bool] = never) -> None:
        """Refuses a file whose first line is not a row. ``blocks`` still begins with that line.

        A first line without its end is not complete, and not judged.

        Args:
            stopped: See ``blocks``.

        Raises:
            RowFileError, ReadStopped: As for ``blocks``, or the first line is not a row.
        """
        seen: list[bytes] = []

        def pieces() -> Iterator[bytes]:
            for piece in self._pieces(stopped, _FIRST_READ_BYTES):
                seen.append(piece)
                yield piece

        begin = b""
        with self._named_errors():
            for plain in plain_pieces(pieces()):
                begin += plain
                if b"\n" in plain or len(begin) > MAX_LINE_BYTES:
                    break
        if self.is_regular:
            os.lseek(self._number, self._begin, os.SEEK_SET)
        else:
            self._head = b"".join(seen)
        self.bytes_read = 0
        line, end, _ = begin.partition(b"\n")
        is_whole = bool(end) or len(begin) > MAX_LINE_BYTES
        fault = first_line_fault(line) if is_whole else fault_without_end(line)
        if fault is not None:
            raise RowFileError(f"{self.name}, line 1: {fault}")

    def blocks(self, stopped: Callable[[], bool] = never) -> Iterator[LineBlock]:
        """The lines, as they come.

        Args:
            stopped: Whether to give up waiting; called while a pipe has nothing to read.

        Raises:
            RowFileError: The file can't be read, is compressed and damaged, or of another format.
            ReadStopped: ``stopped`` said so.
        """
        with self._named_errors():
            yield from line_blocks(plain_pieces(self._pieces(stopped)))

    def _pieces(
        self, stopped: Callable[[], bool], read_bytes: int = _READ_BYTES
    ) -> Iterator[bytes]:
        head, self._head = self._head, b""
        if head:
            self.bytes_read += len(head)
            yield head
        while piece := self._read(stopped, read_bytes):
            self.bytes_read += len(piece)
            yield piece

    def _read(self, stopped: Callable[[], bool], read_bytes: int) -> bytes:
        if not self.is_regular:
            poll = select.poll()
            poll.register(self._number, select.POLLIN)
            while not poll.poll(_LOOK_MILLISECONDS):
                if stopped():
                    raise ReadStopped
        piece = os.read(self._number, read_bytes)
        if not piece and self.is_regular:
            self._check_length()
        return piece

    def _check_length(self) -> None:
        """Refuses an end that comes too early: somebody has cut the file, to rotate it perhaps.

        Raises:
            RowFileError: It is shorter now than what was read of it.
        """
        if os.fstat(self._number).st_size < self._begin + self.bytes_read:
            raise RowFileError(
                f"{self.name}: became shorter while it was read (rotated by copytruncate?); "
                f"its first {self.bytes_read:,} bytes were read"
            )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RowFileError(f"{self.name}: {error.strerror or error}") from None
        except CompressionError as error:
            raise RowFileError(f"{self.name}: {error}") from None


def open_rows(path: PathLike, stopped: Callable[[], bool] = never) -> OpenedFile:
    """Opens a file whose first line is a row.

    Raises:
        RowFileError, ReadStopped: As for ``OpenedFile`` and ``check_first_line``.
    """
    file = OpenedFile(path)
    try:
        file.check_first_line(stopped)
    except BaseException:
        file.close()
        raise
    return file


def can_be_read_again(path: PathLike) -> bool:
    """Whether a file can be opened and read more than once, as a pipe can't."""
    if str(path) == STANDARD_INPUT:
        return False
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return True  # whoever opens it says what is wrong
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def refuse_one_pipe_twice(files: Iterable[OpenedFile]) -> None:
    """Refuses a pipe that is named twice, as each reader would get some of its bytes.

    Raises:
        RowFileError: It names the pipe.
    """
    seen = set()
    for file in files:
        if not file.is_regular and file.identity in seen:
            raise RowFileError(f"{file.name}: named twice, and a pipe can be read only once")
        seen.add(file.identity)
