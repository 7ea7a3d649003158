"""Steps of many ranks: each starts on all of them or on none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from crc32c import crc32c

from src.process.arrays import Array
from src.process.stop import IdleLimit, StopFlag
from src.ranks.group import Ranks
from src.ranks.placement import RankError
from src.ranks.rounds import ROUND_SECONDS, Lockstep, SharedClosing, SharedSession
from src.trainer.callbacks import TrainingProgress, TrainingStopped
from src.trainer.dataset import BatchRecord, StreamingDataset

WAIT_SECONDS = 0.005
BY_ROW, BY_BATCH = 3, 5
"""How many numbers of each row, and of the batch, a rank reports."""


class Batches(Protocol):
    """What ``StepTogether`` needs of a rank's batches."""

    @property
    def last_row_at(self) -> float:
        """When the last rows came, on the monotonic clock."""

    def wait_for_batch(self, number: int, seconds: float, give_up: Callable[[], bool]) -> bool:
        """Whether the number-th batch is there, after waiting for it for a while."""

    def next_batch(self) -> BatchRecord:
        """The oldest batch's record that was not returned yet."""

    def change_session(self, session: int) -> None:
        """From now on only windows of this session are taken."""


class RankStream:
    """A rank's ``StreamingDataset``, for a caller that must not wait for ever.

    Args:
        stream: The batches.
        flag: Ends the stream.
    """

    def __init__(self, stream: StreamingDataset, flag: StopFlag) -> None:
        self._stream = stream
        self._flag = flag
        self.next_batch = stream.next_batch
        self.change_session = stream.change_session

    @property
    def last_row_at(self) -> float:
        """When the last rows came, on the monotonic clock."""
        return self._stream.last_row_at

    def wait_for_batch(self, number: int, seconds: float, give_up: Callable[[], bool]) -> bool:
        """Whether the number-th batch is there, after waiting for it for a while.

        Args:
            number: From 1; the one before it must have been there.
            seconds: How long to wait for it.
            give_up: Asked during the wait.

        Raises:
            Exception: What the pipeline has failed with.
        """
        stream = self._stream
        until = time.monotonic() + seconds
        while stream.batches < number:
            if stream.failure is not None:
                raise stream.failure
            if give_up() or self._flag.is_set() or time.monotonic() >= until:
                return False
            # Before training begins no pipeline prepares it. The caller can't do so itself: it must
            # be free while a consumer is waited for, or the answer of the other ranks.
            stream.prepare_aside(number, WAIT_SECONDS)
        return True


class StepTogether(ms.Callback):  # type: ignore[misc]
    """Starts each step on all ranks or on none, and ends training after the same one.

    It comes last among the callbacks. It is also the ledger of those before it: it returns the
    record of the global batch. A rank takes part in a round once its batch is there or a second is
    over.

    Args:
        lockstep: The rounds.
        ranks: The ranks that take part.
        stream: This rank's batches.
        progress: Holds the steps of this run.
        flag: Ends training, whichever rank's is set.
        batch_size: b, rows of a rank's batch.
        max_steps: Steps of this run; 0 for no limit.
        idle: Ends training when there are no rows for too long.
        shared: Holds the pipeline's request for rows again.
        closing: Holds the pipeline's offer of a batch that is not full.
        read_again: Begins a new session, on rank 0.
    """

    def __init__(
        self,
        lockstep: Lockstep,
        ranks: Ranks,
        stream: Batches,
        progress: TrainingProgress,
        flag: StopFlag,
        batch_size: int,
        max_steps: int,
        idle: IdleLimit,
        shared: SharedSession,
        closing: SharedClosing,
        read_again: Callable[[], int],
    ) -> None:
        super().__init__()
        self._lockstep = lockstep
        self._ranks = ranks
        self._stream = stream
        self._progress = progress
        self._flag = flag
        self._batch_size = batch_size
        self._max_steps = max_steps
        self._idle = idle
        self._shared = shared
        self._closing = closing
        self._read_again = read_again
        self._next: BatchRecord | None = None
        self._own: BatchRecord | None = None

    def next_batch(self) -> BatchRecord:
        """The record of the global batch of the step under way."""
        record, self._next = self._next, None
        assert record is not None, "a step was agreed on"
        return record

    def on_train_begin(self, run_context: Any) -> None:
        """Agrees on the first step.

        Raises:
            TrainingStopped: A stop was agreed on.
        """
        self._agree()

    def on_train_step_end(self, run_context: Any) -> None:
        """Agrees on the next step.

        Raises:
            TrainingStopped: A stop was agreed on.
        """
        if self._max_steps and self._progress.steps_done >= self._max_steps:
            raise TrainingStopped(f"{self._max_steps} steps are done")
        self._agree()

    def _agree(self) -> None:
        began = time.monotonic()
        number = self._progress.steps_done + 1
        while True:
            if self._own is None and self._stream.wait_for_batch(
                number, ROUND_SECONDS, self._must_report
            ):
                self._own = self._stream.next_batch()
            if self._own is None:
                self._idle.check(max(began, self._stream.last_row_at))
            ready, wants = self._own is not None, self._shared.is_wanted()
            offered = 0 if ready else self._closing.offered(number)
            stop, everyone = self._lockstep.round(
                ready, wants, offered, *packed(self._own, self._batch_size)
            )
            if stop:
                raise TrainingStopped(self._flag.reason)
            if everyone[:, 1].any():
                self._begin_session()
            if everyone[:, 0].all():
                assert self._own is not None
                self._next, self._own = merged(self._own, everyone[:, 3:]), None
                return
            self._closing.settle(number, everyone[:, 0], everyone[:, 2])

    def _must_report(self) -> bool:
        """Whether this rank has something to report before its batch is there."""
        offered = self._closing.offered(self._progress.steps_done + 1)
        return self._flag.is_set() or self._shared.is_wanted() or offered > 0

    def _begin_session(self) -> None:
        session = self._ranks.share(self._lockstep.on_first(self._read_again))
        self._stream.change_session(session)
        self._shared.begin(session)


# --- what a rank reports of its batch ---


def packed(record: BatchRecord | None, batch_size: int) -> Array:
    """What other ranks need of a batch, zeros where there is none: float32[3 · batch_size + 5]."""
    if record is None:
        return np.zeros(BY_ROW * batch_size + BY_BATCH, np.float32)
    by_row = np.zeros((BY_ROW, batch_size), np.float32)
    # A float32 holds whole numbers exactly up to 24 bits.
    by_row[:, : len(record.oov)] = record.labels, record.oov >> 16, record.oov & 0xFFFF
    place = f"{record.position}{record.ranges}{record.dictionaries}".encode()
    time_parts = [record.newest_timestamp >> shift & 0xFFFF for shift in (32, 16, 0)]
    check = crc32c(place)
    rest = np.array([*time_parts, check >> 16, check & 0xFFFF], np.float32)
    return np.concatenate([by_row.ravel(), rest])


def merged(own: BatchRecord, everyone: Array) -> BatchRecord:
    """The record of the global batch, labels and bits rank by rank.

    Args:
        own: This rank's record; its stripes are those of the others.
        everyone: float32[size, 3 · batch_size + 5], what ``packed`` returned on each rank.

    Raises:
        RankError: The ranks have rows of different stripes; the message names them.
    """
    size = len(everyone)
    by_row = everyone[:, :-BY_BATCH].reshape(size, BY_ROW, -1)[:, :, : len(own.labels)]
    labels, high, low = by_row.transpose(1, 0, 2)
    rest = everyone[:, -BY_BATCH:].astype(np.int64)
    unlike = np.flatnonzero((rest[:, 3:] != rest[0, 3:]).any(axis=1))
    if unlike.size:
        raise RankError(
            f"rank {', '.join(map(str, unlike))} has other rows than rank 0: "
            f"the shards no longer step together at {own.position}"
        )
    timestamps = (rest[:, 0] << 32) + (rest[:, 1] << 16) + rest[:, 2]
    return replace(
        own,
        labels=labels.ravel().astype(np.float32),
        oov=(high.astype(np.uint32) << 16 | low.astype(np.uint32)).ravel(),
        newest_timestamp=int(timestamps.max()),
        is_row=None if own.is_row is None else np.tile(own.is_row, size),
    )
