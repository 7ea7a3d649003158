"""A script of this repository in a process of its own."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from examples.services.common import ROOT
from src.process.child_processes import ended_with_parent

logger = logging.getLogger("quickstart")

STOP_SECONDS = 60.0  # the trainer may be writing a checkpoint


class Script:
    """A script of the repository in a process of its own, its output in a log file.

    Ctrl-C in the terminal does not reach it, so that scripts can be stopped in the right order. If
    this process is killed, the script gets SIGTERM.

    Args:
        name: A launcher's ``*.sh``, or a Python script's name without ".py".
        flags: Its flags.
        log_path: File for its stderr, and for its stdout unless ``on_line`` is given.
        on_line: Called in a thread with each line of stdout.
        cwd: Its working directory.
    """

    def __init__(
        self,
        name: str,
        flags: Sequence[str],
        log_path: Path,
        on_line: Callable[[str], None] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*_command(name), *flags],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if on_line else log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ended_with_parent(signal.SIGTERM),
            )
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.poll()

    def log(self) -> str:
        """Its log so far."""
        return self.log_path.read_text(errors="replace")

    def found(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The last match of a pattern in its log."""
        matches = list(pattern.finditer(self.log()))
        return matches[-1] if matches else None

    def wait(self, timeout: float) -> int:
        """Waits for its end and returns the exit code; raises ``subprocess.TimeoutExpired``."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def stop(self, number: int = signal.SIGTERM, timeout: float = STOP_SECONDS) -> int:
        """Ends it by a signal, or with its children by SIGKILL; returns the exit code."""
        if self.code is None:
            self.process.send_signal(number)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            logger.warning("%s.py did not end within %.0f s, killing it", self.name, timeout)
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.wait(timeout)

    def _read(self, on_line: Callable[[str], None] | None) -> None:
        if on_line is None or self.process.stdout is None:
            return
        with self.process.stdout as lines:
            for line in lines:
                on_line(line.decode(errors="replace").rstrip("\n"))


def _command(name: str) -> list[str]:
    """The command of a script: bash runs a launcher, this Python runs the others."""
    if name.endswith(".sh"):
        return ["bash", str(ROOT / name)]
    return [sys.executable, str(ROOT / f"{name}.py")]
