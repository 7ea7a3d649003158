"""A rank's pulse: a small file from which its launcher sees that it lives and how far it is.

Two things are to be told apart. A process that is stopped, or whose interpreter is stuck, writes
no more. A rank whose main thread hangs still writes, but its rounds stand still while the others
are a round ahead, waiting for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

FOLDER_VARIABLE = "ONLINE_TRAIN_PULSES"
BEAT_SECONDS = 1.0


@dataclass(frozen=True)
class Beat:
    """What a rank has last said.

    Attributes:
        at: When, seconds since 1970.
        pid: Its process.
        rank: Its rank, -1 before it has met the others.
        rounds: How many common rounds it has entered.
    """

    at: float
    pid: int
    rank: int
    rounds: int


class Pulse:
    """Writes the beats of this process, once a second from a thread of its own.

    Args:
        path: The file; None for none.
    """

    def __init__(self, path: Optional[Path]) -> None:
        self._path = path
        self.rank = -1
        self.rounds = 0
        self._writing = threading.Lock()
        if path is not None:
            threading.Thread(target=self._beat_for_ever, name="pulse", daemon=True).start()

    def _beat_for_ever(self) -> None:
        while True:
            self.beat()
            time.sleep(BEAT_SECONDS)

    def beat(self) -> None:
        """Writes a beat; a file that can't be written is its launcher's problem."""
        if self._path is None:
            return
        aside = self._path.with_suffix(".new")
        with self._writing, contextlib.suppress(OSError):
            aside.write_text(f"{time.time()} {os.getpid()} {self.rank} {self.rounds}\n")
            os.replace(aside, self._path)


def pulse_path(folder: Path, index: int) -> Path:
    """Where the process of a launcher's number writes."""
    return folder / f"{index}.pulse"


def pulse_from(environment: dict[str, str], index: int) -> Pulse:
    """The pulse that the launcher has asked for, or none."""
    folder = environment.get(FOLDER_VARIABLE)
    return Pulse(pulse_path(Path(folder), index) if folder else None)


def last_beat(folder: Path, index: int) -> Optional[Beat]:
    """What a rank has last said, None before its first word."""
    try:
        at, pid, rank, rounds = pulse_path(folder, index).read_text().split()
        return Beat(float(at), int(pid), int(rank), int(rounds))
    except (OSError, ValueError):
        return None


class HangDetector:
    """Finds ranks that hang, from their beats.

    Args:
        limit_seconds: How long a rank may be silent, or a round behind the others.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._behind_since: dict[int, tuple[int, float]] = {}

    def look(self, beats: dict[int, Beat], now: float) -> Optional[tuple[int, str]]:
        """(launcher's number, what is wrong) of a rank that hangs, or None.

        Args:
            beats: The last beat of each rank that has one, by the launcher's number.
            now: Seconds since 1970.
        """
        for index, beat in beats.items():
            silent = now - beat.at
            if silent > self._limit:
                return index, f"has given no sign of life for {silent:.0f} s"
        ahead = max((beat.rounds for beat in beats.values()), default=0)
        for index, beat in beats.items():
            rounds, since = self._behind_since.get(index, (-1, now))
            if beat.rounds == ahead or beat.rounds != rounds:
                rounds, since = beat.rounds, now
            self._behind_since[index] = (rounds, since)
            if now - since > self._limit:
                return index, f"has hung for {now - since:.0f} s, the others wait for it"
        return None
