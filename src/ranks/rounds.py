"""Rounds: how ranks stay together. What a rank decides follows from what all have reported.

On the CPU MindSpore's collectives fail when a rank keeps the others waiting for 30 seconds, and a
rank that waits in one handles no signal. So no rank waits alone. While there is nothing to train
on, or rank 0 is busy, all ranks meet in a short round at least once a second and report how they
stand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from src.process.arrays import Array
from src.process.stop import StopFlag
from src.ranks.group import Ranks
from src.ranks.placement import RankError

ROUND_SECONDS = 1.0
BUSY_SECONDS = 0.2
UNDER_WAY, DONE, FAILED = range(3)

Result = TypeVar("Result")


class Lockstep:
    """Rounds of all ranks; every rank must take part in every round.

    Args:
        ranks: The ranks that take part.
        flag: Asks the others for a stop, and is set when another rank asks.
    """

    def __init__(self, ranks: Ranks, flag: StopFlag) -> None:
        self._ranks = ranks
        self._flag = flag

    def round(self, *reported: float) -> tuple[bool, Array]:
        """Exchanges some numbers between all ranks.

        Args:
            reported: Float32 numbers, as many on every rank.

        Returns:
            Whether any rank wants a stop (the same on all, unlike the flag), and what each has
            reported: float32[size, numbers].
        """
        everyone = self._ranks.gather(np.array([self._flag.is_set(), *reported], np.float32))
        wanting = np.flatnonzero(everyone[:, 0])
        if wanting.size:
            self._flag.set(f"rank {wanting[0]} asked for a stop")
        return wanting.size > 0, everyone[:, 1:]

    def until_all(self, attempt: Callable[[], bool]) -> bool:
        """Tries something until it has succeeded on all ranks.

        Args:
            attempt: Takes up to about ``ROUND_SECONDS``; not called again once it was True.

        Returns:
            False where a stop was agreed on instead.
        """
        ready = False
        while True:
            ready = ready or attempt()
            stop, everyone = self.round(ready)
            if stop:
                return False
            if everyone.all():
                return True

    def on_first(self, work: Callable[[], Result]) -> Result | None:
        """Has rank 0 do something, however long it takes, while the others go on meeting it.

        Returns:
            What it returned, None on the other ranks.

        Raises:
            RankError: It failed, on the other ranks; on rank 0 its own error.
        """
        if self._ranks.alone:
            return work()
        task = _Task(work) if self._ranks.is_first else None
        while True:
            _, everyone = self.round(UNDER_WAY if task is None else task.state(BUSY_SECONDS))
            if everyone[0, 0] == DONE:
                return None if task is None else task.result
            if everyone[0, 0] == FAILED:
                if task is not None and task.error is not None:
                    raise task.error
                raise RankError("rank 0 has failed; its log says why")


class _Task:
    """Something that runs in a thread of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), name="first-rank")
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self.result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the main thread
            self.error = error

    def state(self, seconds: float) -> int:
        """UNDER_WAY, DONE or FAILED, after waiting for its end for some seconds."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return UNDER_WAY
        return DONE if self.error is None else FAILED


class SharedClosing:
    """Has all ranks close a batch by time at the same row, or none of them.

    The pipeline's thread of a rank whose batch is due offers the rows that it holds, and waits. The
    main threads report the offers in their rounds. Once every rank offers rows for the step to be
    agreed on, each closes its batch after the fewest offered. A rank that has a full batch refuses:
    the rows that the others lack are on their way to them.

    Args:
        flag: Ends the wait of a pipeline; its answer is 0 then.
    """

    def __init__(self, flag: StopFlag) -> None:
        self._flag = flag
        self._changed = threading.Condition()
        self._number = 0
        self._rows = 0
        self._answer: int | None = None

    def offer(self, number: int, rows: int) -> int:
        """For the pipeline's thread: how many of its rows make the number-th batch.

        Args:
            number: The batch's number, from 1.
            rows: Rows held, at least one.

        Returns:
            0 where it must wait for more.
        """
        with self._changed:
            self._number, self._rows, self._answer = number, rows, None
            while self._answer is None and not self._flag.is_set():
                self._changed.wait(BUSY_SECONDS)
            self._number = 0  # where a stop was the answer
            return self._answer or 0

    def offered(self, number: int) -> int:
        """For the main thread: the rows that this rank offers for the number-th batch."""
        with self._changed:
            return self._rows if self._number == number else 0

    def settle(self, number: int, ready: Array, offered: Array) -> None:
        """For the main thread: answers the pipeline, where a round has brought a decision.

        Args:
            number: The number of the batch that the round was about.
            ready: float32[size], whether each rank has it.
            offered: float32[size], the rows that each has offered for it.
        """
        if not ready.any() and not offered.all():
            return
        with self._changed:
            if self._number == number:
                self._number = 0  # answered once, however late the pipeline's thread wakes up
                self._answer = 0 if ready.any() else int(offered.min())
                self._changed.notify_all()


class SharedSession:
    """Has rows sent again for all ranks, when one of them misses some.

    The pipeline's thread of the rank that misses rows asks and waits. In the next round all ranks
    learn of it, rank 0 begins a session, and every rank takes it.
    """

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._changed = threading.Condition()
        self._session: int | None = None
        self._closed = False

    def ask(self) -> int:
        """For the pipeline's thread: asks for a new session and returns it."""
        with self._changed:
            self._session = None
            self._wanted.set()
            self._changed.wait_for(lambda: self._session is not None or self._closed)
            return self._session or 0

    def is_wanted(self) -> bool:
        """For the main thread: whether this rank asks."""
        return self._wanted.is_set()

    def begin(self, session: int) -> None:
        """For the main thread: the new session is there."""
        with self._changed:
            self._wanted.clear()
            self._session = session
            self._changed.notify_all()

    def close(self) -> None:
        """Releases a pipeline that asks: there will be no answer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
