"""Ranks as threads that meet at a barrier. The methods of ``Ranks`` above ``sum`` are real."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from src.process.arrays import Array
from src.ranks.group import Ranks
from src.ranks.placement import RankError

Result = TypeVar("Result")
ENDS_ONE_RANK = (RankError,)


class Meeting:
    """Where the threads leave what they have to add."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=20)
        self.parts: list[Array] = [np.zeros(0)] * size


class ThreadRanks(Ranks):
    """One of several threads."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        super().__init__(rank)
        self.size = len(meeting.parts)
        self.rounds = 0
        self._meeting = meeting

    def barrier(self) -> None:
        """Waits for the others."""
        self._meeting.barrier.wait()

    def sum(self, values: Array) -> Array:
        self.rounds += 1
        self._meeting.parts[self.rank] = values
        self._meeting.barrier.wait()
        total: Array = np.sum(self._meeting.parts, axis=0, dtype=np.float32)
        self._meeting.barrier.wait()
        return total


def together(
    size: int,
    body: Callable[[ThreadRanks], Result],
    also: tuple[type[BaseException], ...] = (),
) -> list[Result | BaseException]:
    """What becomes of each of several ranks: what it returns, or the error that ends it.

    An error breaks the meeting up, unless it is one of ``ENDS_ONE_RANK`` or of ``also``.
    """
    meeting = Meeting(size)
    results: list[Result | BaseException] = [RuntimeError("did not end")] * size

    def run(rank: int) -> None:
        try:
            results[rank] = body(ThreadRanks(rank, meeting))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            results[rank] = error
            if not isinstance(error, (*ENDS_ONE_RANK, *also)):
                meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
