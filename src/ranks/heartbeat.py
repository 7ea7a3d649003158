"""A rank's heartbeat: a small file from which the launcher sees that it runs and how far it is.

The launcher must detect two kinds of hang. A process that is stopped, or whose interpreter is
stuck, no longer writes. A rank whose main thread hangs still writes, but its rounds stand still;
the others are a round ahead and wait for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER_VARIABLE = "ONLINE_TRAIN_HEARTBEATS"
HEARTBEAT_SECONDS = 1.0


@dataclass(frozen=True)
class Heartbeat:
    """What a rank has last written.

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


class HeartbeatWriter:
    """Writes this process's heartbeat once a second, from a thread of its own.

    Args:
        path: The file; None for none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.rank = -1
        self.rounds = 0
        self._writing = threading.Lock()
        if path is not None:
            threading.Thread(target=self._write_for_ever, name="heartbeat", daemon=True).start()

    def _write_for_ever(self) -> None:
        while True:
            self.write()
            time.sleep(HEARTBEAT_SECONDS)

    def write(self) -> None:
        """Writes a heartbeat; a file that can't be written is the launcher's problem."""
        if self._path is None:
            return
        aside = self._path.with_suffix(".new")
        with self._writing, contextlib.suppress(OSError):
            aside.write_text(f"{time.time()} {os.getpid()} {self.rank} {self.rounds}\n")
            os.replace(aside, self._path)


def heartbeat_path(folder: Path, index: int) -> Path:
    """Where a process writes its heartbeat, by the number that the launcher gave it."""
    return folder / f"{index}.heartbeat"


def heartbeat_writer_from(environment: dict[str, str], index: int) -> HeartbeatWriter:
    """A writer to the launcher's folder; without a launcher it writes nothing."""
    folder = environment.get(FOLDER_VARIABLE)
    return HeartbeatWriter(heartbeat_path(Path(folder), index) if folder else None)


def last_heartbeat(folder: Path, index: int) -> Heartbeat | None:
    """A rank's last heartbeat, None before the first."""
    try:
        at, pid, rank, rounds = heartbeat_path(folder, index).read_text().split()
        return Heartbeat(float(at), int(pid), int(rank), int(rounds))
    except (OSError, ValueError):
        return None


class HangDetector:
    """Finds ranks that hang, from their heartbeats.

    Args:
        limit_seconds: How long a rank may write nothing, or be a round behind the others.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._behind_since: dict[int, tuple[int, float]] = {}

    def find(self, heartbeats: dict[int, Heartbeat], now: float) -> tuple[int, str] | None:
        """(launcher's number, what is wrong) of a rank that hangs, or None.

        Args:
            heartbeats: The last of each rank that has one, by the launcher's number.
            now: Seconds since 1970.
        """
        for index, heartbeat in heartbeats.items():
            silent = now - heartbeat.at
            if silent > self._limit:
                return index, f"has sent no heartbeat for {silent:.0f} s"
        newest_round = max((heartbeat.rounds for heartbeat in heartbeats.values()), default=0)
        for index, heartbeat in heartbeats.items():
            rounds, since = self._behind_since.get(index, (-1, now))
            if heartbeat.rounds == newest_round or heartbeat.rounds != rounds:
                rounds, since = heartbeat.rounds, now
            self._behind_since[index] = (rounds, since)
            if now - since > self._limit:
                return index, f"has hung for {now - since:.0f} s, the others wait for it"
        return None
