"""Text files of bounded size that grow by whole lines: the loss file and the audit trail."""

from __future__ import annotations

import contextlib
import logging
import os
import threading

from src.process.output import OutputError

logger = logging.getLogger(__name__)

MAX_BYTES = 64 << 20


class LineFile:
    """A text file to which lines are appended; others can read each as soon as it is written.

    At ``max_bytes`` the file is renamed to ``<path>.1``, which replaces an earlier one, and a new
    file is begun. So a service that runs for months does not fill the disk.

    Args:
        path: The file; "" for none.
        max_bytes: The largest size of the file.

    Raises:
        OutputError: It can't be opened.
    """

    def __init__(self, path: str, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._changing = threading.Lock()
        try:
            self._file = open(path, "ab") if path else None  # noqa: SIM115
            self._bytes = os.fstat(self._file.fileno()).st_size if self._file else 0
        except OSError as error:
            raise OutputError(f"can't open {path}: {error.strerror}") from None

    def append(self, *lines: str) -> None:
        """Writes lines; does nothing if the path is empty.

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
                self.close()  # and makes it durable: a later ``sync`` reaches only the new file
                os.replace(self._path, rotated(self._path))
                self._file = open(self._path, "ab")  # noqa: SIM115
                self._bytes = 0
        except OSError as error:
            raise OutputError(f"can't write {self._path}: {error.strerror}") from None

    def sync(self) -> None:
        """Waits until the lines are on disk; does nothing once the file is closed.

        It may be called while another thread appends.

        Raises:
            OutputError: It can't be written.
        """
        try:
            with self._changing:  # but not while the disk is waited for
                if self._file is None or self._file.closed:
                    return
                descriptor = os.dup(self._file.fileno())
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OutputError(f"can't write {self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Makes the file durable and closes it; ``append`` has already reported write errors."""
        if self._file is not None:
            with contextlib.suppress(OutputError):  # a pipe, say
                self.sync()
            with self._changing, contextlib.suppress(OSError):
                self._file.close()


def rotated(path: str) -> str:
    """The file that holds the lines before those in ``path``."""
    return path + ".1"
