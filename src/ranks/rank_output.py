"""The output of the processes of a launch: prefixed lines here, and one log for each process."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from pathlib import Path
from typing import IO, TextIO

from src.process.output import OutputError, say
from src.watching.line_file import LineFile

TAIL_LINES = 12
# ``mpirun --tag-output`` puts this before each line of a rank. If a line reaches it in pieces, each
# piece gets a tag, and another rank's piece may come in between.
TAG = re.compile(r"\[\d+,(\d+)\]<std(?:out|err)>:")


class RankOutput:
    """Writes each line to its process's log, and prints it with the process's name before it.

    Args:
        folder: Where the logs are; created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._logs: dict[str, LineFile] = {}
        self._tails: dict[str, deque[str]] = {}
        self._is_closed = False

    def log_path(self, name: str) -> Path:
        """Where a process's lines go."""
        return self._folder / f"{name.replace(' ', '_')}.log"

    def take(self, name: str, line: str, to: TextIO) -> None:
        """Takes a line of a process; one that comes after ``close`` is only printed."""
        with self._lock:
            if not self._is_closed:
                self._keep(name, line)
            with contextlib.suppress(OutputError):  # the ranks go on, and have their log files
                say(f"[{name}] {line}", to=to)

    def _keep(self, name: str, line: str) -> None:
        if name not in self._logs:
            self._logs[name] = LineFile(str(self.log_path(name)))
            self._tails[name] = deque(maxlen=TAIL_LINES)
        self._logs[name].append(line)
        if line.strip():
            self._tails[name].append(line)

    def tail(self, name: str) -> list[str]:
        """A process's last lines in this launch."""
        with self._lock:
            return list(self._tails.get(name, ()))

    def follow(self, name: str, pipe: IO[bytes], to: TextIO) -> threading.Thread:
        """Starts a thread that takes a pipe's lines; a line tagged by mpirun is a worker's."""

        def read() -> None:
            begun: dict[str, str] = {}
            with pipe:
                for data in pipe:
                    line = data.decode(errors="replace").rstrip("\n")
                    for owner, piece in pieces(line, name):
                        begun[owner] = begun.get(owner, "") + piece
                    self.take(owner, begun.pop(owner), to)
            for owner, rest in begun.items():
                self.take(owner, rest, to)

        thread = threading.Thread(target=read, name=f"output of {name}", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Closes the logs."""
        with self._lock:
            self._is_closed = True
            for log in self._logs.values():
                log.close()


def pieces(line: str, name: str) -> list[tuple[str, str]]:
    """(process, text) of the pieces of a line; the last piece ends its process's line.

    Args:
        line: As mpirun wrote it, or a process whose output is not tagged.
        name: The process to which the text before the first tag belongs.
    """
    before, *tagged = TAG.split(line)
    found = [(f"worker {tagged[at]}", tagged[at + 1]) for at in range(0, len(tagged), 2)]
    return [(name, before), *found] if before or not found else found
