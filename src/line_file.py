"""Text files that grow by whole lines and are bounded: the loss file and the audit trail."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path

from src.position import RowRange

logger = logging.getLogger(__name__)

MAX_BYTES = 64 << 20


class OutputError(RuntimeError):
    """A file can't be written; one line says why."""


class LineFile:
    """A text file to which lines are appended, each there for others as soon as it is written.

    When it has reached ``max_bytes`` it becomes ``<path>.1``, in place of an earlier one, and a new
    file is begun: a service that runs for months fills no disk.

    Args:
        path: The file; "" for none.
        max_bytes: How long it may get.

    Raises:
        OutputError: It can't be opened.
    """

    def __init__(self, path: str, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        try:
            self._file = open(path, "ab") if path else None  # noqa: SIM115
            self._bytes = os.fstat(self._file.fileno()).st_size if self._file else 0
        except OSError as error:
            raise OutputError(f"can't open {path}: {error.strerror}") from None

    def append(self, *lines: str) -> None:
        """Writes lines, to nowhere where the path is empty.

        Raises:
            OutputError: They can't be written.
        """
        if self._file is None:
            return
        try:
            # One write for all: a kill leaves all of the lines or none.
            data = "".join(line + "\n" for line in lines).encode()
            self._file.write(data)
            self._file.flush()
            self._bytes += len(data)
            if self._bytes >= self._max_bytes and os.path.isfile(self._path):
                self.close()  # durable too: a later ``sync`` reaches the new file only
                os.replace(self._path, rotated(self._path))
                self._file = open(self._path, "ab")  # noqa: SIM115
                self._bytes = 0
        except OSError as error:
            raise OutputError(f"can't write {self._path}: {error.strerror}") from None

    def sync(self) -> None:
        """Waits until the disk has what was written; does nothing once the file is closed.

        Raises:
            OutputError: It can't be written.
        """
        try:
            if self._file is not None and not self._file.closed:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"can't write {self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Makes the file durable and closes it; what could not be written was reported before."""
        if self._file is not None:
            with contextlib.suppress(OutputError):  # a pipe, say
                self.sync()
            with contextlib.suppress(OSError):
                self._file.close()


def rotated(path: str) -> str:
    """Where the lines before the ones in ``path`` are."""
    return path + ".1"


def audit_line(step: int, rows: RowRange) -> str:
    """One line of the audit trail: a step and the rows of one partition in its batch."""
    return json.dumps({"step": step, **asdict(rows)})


def begin_audit(path: str, step: int, fresh: bool) -> None:
    """Makes an audit trail say what the weights hold at a (re)start, and no more.

    The steps behind the last checkpoint are lost with the trainer that did them and will be done
    again: their lines are cut off. A trail of other weights is set aside.

    Args:
        path: The trail; "" for none.
        step: The step of the checkpoint from which training goes on; 0 for none.
        fresh: Whether training starts over.

    Raises:
        OutputError: The files can't be read or written.
    """
    if not path:
        return
    try:
        for name in (path, rotated(path)):
            if os.path.exists(name) and os.path.isfile(name):
                _set_aside(name) if fresh else _cut_off(name, step)
    except OSError as error:
        raise OutputError(f"can't write {error.filename}: {error.strerror}") from None


def _set_aside(name: str) -> None:
    if os.path.getsize(name):
        os.replace(name, f"{name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")


def _cut_off(name: str, step: int) -> None:
    """Cuts a file at its first line of a later step, or at one that was not finished."""
    end = 0
    with open(name, "rb") as lines:
        for line in lines:
            if not line.endswith(b"\n") or _step_of(line, name) > step:
                break
            end += len(line)
    surplus = Path(name).stat().st_size - end
    if surplus:
        logger.info(
            "%s: cutting %d bytes of steps behind %d, to be done again", name, surplus, step
        )
        os.truncate(name, end)


def _step_of(line: bytes, name: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{name} is no audit trail: {line[:80]!r}") from None
