"""Times at which parts of the pipeline have had a row, written by the two timed scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.process.arrays import Array


class EventFile:
    """Appends events to a file, a JSON line each; they are few.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, at: float, offsets: Mapping[int, int]) -> None:
        """Something happened, at a time in seconds since 1970, up to these offsets."""
        with self._path.open("a") as file:
            file.write(json.dumps({"at": at, "offsets": offsets}) + "\n")


def last_offsets(window: Array) -> dict[int, int]:
    """The highest offset of each partition in a window of one shard."""
    return {
        int(partition): int(window["offset"][window["partition"] == partition].max())
        for partition in np.unique(window["partition"])
    }


class Events:
    """Events of one kind, for look-ups.

    Args:
        path: What ``EventFile`` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._by_partition: dict[int, list[tuple[int, float]]] = {}
        for line in path.read_text().splitlines():
            event = json.loads(line)
            for partition, offset in event["offsets"].items():
                self._by_partition.setdefault(int(partition), []).append((offset, event["at"]))

    def reached(self, partition: int, offset: int) -> float | None:
        """When an offset of a partition was first covered; None if never."""
        for last, at in self._by_partition.get(partition, []):
            if last >= offset:
                return at
        return None
