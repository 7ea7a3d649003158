"""What both services need: where the repository is, how to wait, how to name a process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"  # neither service is offered to the network by us


class ServiceError(RuntimeError):
    """A service cannot be started or used; the message says why and what to do."""


class ProcessId(NamedTuple):
    """A process by its number and its start time, as the number alone may be used again."""

    pid: int
    create_time: float  # seconds since the epoch

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Returns the identity of a running process; raises ``psutil.NoSuchProcess``."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """Returns the process, or None if it is gone (a zombie counts as gone)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def wait_until(condition: Callable[[], bool], timeout: float, interval: float = 0.1) -> bool:
    """Polls ``condition`` for up to ``timeout`` seconds; returns whether it came true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def last_lines(path: Path, count: int = 15) -> str:
    """Returns the last lines of a text file; an empty text if there is no file."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])
