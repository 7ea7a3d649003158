"""How ranks stay together: whatever one of them decides follows from what all have said.

On the CPU MindSpore's collectives fail when a rank lets the others wait for 30 seconds, and ranks
that wait in one answer no signal. So nobody waits alone: while there is nothing to train on, or
rank 0 is busy, all meet in a short round at least once a second, and each says how it stands.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Optional, Protocol, TypeVar

import mindspore as ms
import numpy as np
from crc32c import crc32c

from src.process.arrays import Array
from src.process.stop import StopFlag
from src.ranks.group import Ranks
from src.ranks.placement import RankError
from src.trainer.callbacks import StreamCheckpoint, TrainingProgress, TrainingStopped
from src.trainer.dataset import BatchRecord

logger = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
BUSY_SECONDS = 0.2
UNDER_WAY, DONE, FAILED = range(3)

Result = TypeVar("Result")


class Lockstep:
    """Rounds of all ranks; each is to be taken part in by all of them.

    Args:
        ranks: Who takes part.
        flag: Asks the others for a stop, and is set when another asks.
    """

    def __init__(self, ranks: Ranks, flag: StopFlag) -> None:
        self._ranks = ranks
        self._flag = flag

    def round(self, *says: float) -> tuple[bool, Array]:
        """Says something to all.

        Args:
            says: Float32 numbers, as many on every rank.

        Returns:
            Whether any rank wants a stop (the same on all, unlike the flag), and what each has
            said: float32[size, numbers].
        """
        everyone = self._ranks.gather(np.array([self._flag.is_set(), *says], np.float32))
        wanting = np.flatnonzero(everyone[:, 0])
        if wanting.size:
            self._flag.set(f"rank {wanting[0]} asked for a stop")
        return wanting.size > 0, everyone[:, 1:]

    def until_all(self, attempt: Callable[[], bool]) -> bool:
        """Tries something until it has come off on all ranks.

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

    def on_first(self, work: Callable[[], Result]) -> Optional[Result]:
        """Has rank 0 do something, however long it takes, while the others keep it company.

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
        self.error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, args=(work,), name="first-rank")
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self.result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the main thread
            self.error = error

    def state(self, seconds: float) -> int:
        """How it stands, after waiting for it for a while."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return UNDER_WAY
        return DONE if self.error is None else FAILED


class Batches(Protocol):
    """What a ``StreamingDataset`` tells of its batches."""

    last_row_at: float

    def wait_for_batch(self, number: int, seconds: float, give_up: Callable[[], bool]) -> bool:
        """Whether the number-th batch is there, after waiting for it for a while."""

    def next_batch(self) -> BatchRecord:
        """The record of the oldest batch not yet asked about."""

    def change_session(self, session: int) -> None:
        """From now on only windows of this session are taken."""


class SharedSession:
    """Has rows sent again for all ranks, when one of them misses some.

    The pipeline's thread of the rank that misses them asks and waits; in the next round all learn
    of it, rank 0 begins the session, and everybody takes it.
    """

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._changed = threading.Condition()
        self._session: Optional[int] = None
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
        """Lets go of a pipeline that asks: there will be no answer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class StepTogether(ms.Callback):  # type: ignore[misc]
    """Starts each step on all ranks or on none, and ends training after the same one.

    It comes last among the callbacks, and is the ledger of those before it: it gives the record of
    the global batch. A rank takes part in a round only when its batch is there or a second is over.

    Args:
        lockstep: The rounds.
        ranks: Who takes part.
        stream: This rank's batches.
        progress: Gives the steps of this run.
        flag: Ends training, whichever rank's is set.
        batch_size: b, rows of a rank's batch.
        max_steps: Steps of this run; 0 for no limit.
        idle_seconds: How long there may be no rows; 0 for ever.
        shared: Takes the pipeline's wish for rows again.
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
        idle_seconds: float,
        shared: SharedSession,
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
        self._idle_seconds = idle_seconds
        self._shared = shared
        self._read_again = read_again
        self._next: Optional[BatchRecord] = None
        self._own: Optional[BatchRecord] = None

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
                number, ROUND_SECONDS, self._called
            ):
                self._own = self._stream.next_batch()
            if self._own is None:
                self._look_at_the_clock(began)
            ready, wants = self._own is not None, self._shared.is_wanted()
            stop, everyone = self._lockstep.round(
                ready, wants, *packed(self._own, self._batch_size)
            )
            if stop:
                raise TrainingStopped(self._flag.reason)
            if everyone[:, 1].any():
                self._begin_session()
            if everyone[:, 0].all():
                assert self._own is not None
                self._next, self._own = merged(self._own, everyone[:, 2:]), None
                return

    def _called(self) -> bool:
        """Whether this rank has something to say before its batch is there."""
        return self._flag.is_set() or self._shared.is_wanted()

    def _look_at_the_clock(self, began: float) -> None:
        idle = time.monotonic() - max(began, self._stream.last_row_at)
        if self._idle_seconds and idle >= self._idle_seconds:
            self._flag.set(f"no rows for {self._idle_seconds:g} s")

    def _begin_session(self) -> None:
        session = self._ranks.share(self._lockstep.on_first(self._read_again))
        self._stream.change_session(session)
        self._shared.begin(session)


class CheckpointTogether(ms.Callback):  # type: ignore[misc]
    """Has rank 0 save for all; when ``save_now`` returns, every rank knows that it is durable.

    Args:
        lockstep: The rounds.
        ranks: Who takes part.
        network: Its parameters must be equal on all ranks.
        progress: Gives the step.
        every_steps: Steps between two checkpoints.
        checkpoint: Saves; None on other ranks than 0.
    """

    def __init__(
        self,
        lockstep: Lockstep,
        ranks: Ranks,
        network: ms.nn.Cell,
        progress: TrainingProgress,
        every_steps: int,
        checkpoint: Optional[StreamCheckpoint],
    ) -> None:
        super().__init__()
        self._lockstep = lockstep
        self._ranks = ranks
        self._network = network
        self._progress = progress
        self._every_steps = every_steps
        self._checkpoint = checkpoint

    def on_train_step_end(self, run_context: Any) -> None:
        """Saves when it is time."""
        if self._progress.step % self._every_steps == 0:
            self.save_now()

    def save_now(self) -> None:
        """Saves the state behind the last step, unless it is saved already.

        Raises:
            RankError: The ranks' parameters differ, or rank 0 could not save.
            CheckpointError: It could not be written, on rank 0.
        """
        self._ranks.verify_equal(self._network)
        self._lockstep.on_first(self._checkpoint.save_now if self._checkpoint else _nothing)


def _nothing() -> None:
    """What other ranks than 0 do for a checkpoint."""


# --- what a rank says of its batch ---


def packed(record: Optional[BatchRecord], batch_size: int) -> Array:
    """What other ranks need of a batch, zeros where there is none: float32[3 · batch_size + 5]."""
    if record is None:
        return np.zeros(3 * batch_size + 5, np.float32)
    place = f"{record.position}{record.ranges}{record.dictionaries}".encode()
    time_parts = [record.newest_timestamp >> shift & 0xFFFF for shift in (32, 16, 0)]
    check = crc32c(place)
    return np.concatenate(
        [
            record.labels,
            # A float32 holds whole numbers exactly up to 24 bits.
            record.oov >> 16,
            record.oov & 0xFFFF,
            time_parts,
            [check >> 16, check & 0xFFFF],
        ]
    ).astype(np.float32)


def merged(own: BatchRecord, everyone: Array) -> BatchRecord:
    """The record of the global batch, labels and bits rank by rank.

    Args:
        own: This rank's record; of the stripes it says the same as the others'.
        everyone: float32[size, 3 · batch_size + 5], what ``packed`` has made of each rank's.

    Raises:
        RankError: The ranks have rows of different stripes; the message names them.
    """
    b = len(own.labels)
    labels, high, low = (everyone[:, at * b : (at + 1) * b] for at in range(3))
    rest = everyone[:, 3 * b :].astype(np.int64)
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
    )
