"""StreamingDataset: windows from the channel become whole batches for MindSpore.

Guarantee: the batches hold every row behind the starting position exactly once and in stream
order. A window of another session is dropped whole, a row below the position is skipped. At a gap
the rows are asked for again; one that is still there then is an error. For each batch handed out
the ledger keeps the position behind it, so that the position at step n is that of the first n
batches, however far a pipeline has read ahead of the step.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Callable, Optional

from src.channel.batches import BatchCutter, Columns, CutBatch
from src.channel.channel import ChannelError, WindowReceiver
from src.dictionaries.growth import Growth
from src.dictionaries.vocabulary import Change
from src.features.column_functions import DENSE_TRANSFORMS
from src.process.arrays import Array
from src.process.stop import StopFlag
from src.stream.position import GapError, Position, PositionTracker, RowRange

logger = logging.getLogger(__name__)

Batch = tuple[Array, Array, Array]
RECEIVE_SECONDS = 0.2
WAIT_SECONDS = 0.005
UNBOUNDED_LENGTH = 2**31 - 1


class DatasetError(RuntimeError):
    """The stream can't be trained on: it does not fit the trainer, or its channel is gone."""


@dataclass(frozen=True, eq=False)
class BatchRecord:
    """What a batch was made of.

    Attributes:
        position: The position behind it.
        ranges: The rows in it, by partition, over all shards.
        rows: How many, over all shards.
        dictionaries: Fingerprint of the dictionaries that made its ids.
        labels: float32[batch] of this shard's rows.
        oov: uint32[batch], their fields that are out of vocabulary, see ``oov.oov_bits``.
        newest_timestamp: When the newest of their messages was sent, ms since 1970.
        change: What the batch has changed in a growing vocabulary; None without one.
    """

    position: Position
    ranges: list[RowRange]
    rows: int
    dictionaries: int
    labels: Array
    oov: Array
    newest_timestamp: int
    change: Optional[Change] = None


class StreamingDataset:
    """An endless iterable of batches for ``mindspore.dataset.GeneratorDataset``.

    ``__next__`` runs in a thread of MindSpore's pipeline. When the stop flag is set or the stream
    stays idle it ends the iteration, which MindSpore reports as an error of its own; the caller
    tells the two apart by the flag, and finds a real error in ``failure``.

    Args:
        attach: Connects to the channel, waiting for its sender; None when told to stop meanwhile.
        position: Where the stream starts.
        session: Only windows read for this session are taken.
        batch_size: Rows a batch.
        flag: Ends the iteration when set, and is set when the stream is idle for too long.
        idle_seconds: How long the stream may be idle; 0 for ever.
        dictionaries: The fingerprint to insist on; None takes the first window's.
        dense_transform: What must have become of the dense columns.
        growth: Gives ids to values that the dictionaries lack; None leaves them without.
        read_again: Has the rows behind the last checkpoint sent again, and returns the session
            that they come under; None where nobody can, and each gap is an error.
    """

    def __init__(
        self,
        attach: Callable[[], Optional[WindowReceiver]],
        position: Position,
        session: int,
        batch_size: int,
        flag: StopFlag,
        idle_seconds: float = 0,
        dictionaries: Optional[int] = None,
        dense_transform: str = "minmax",
        growth: Optional[Growth] = None,
        read_again: Optional[Callable[[], int]] = None,
    ) -> None:
        self._attach = attach
        self._tracker = PositionTracker(position)
        self._session = session
        self._flag = flag
        self._idle_seconds = idle_seconds
        self._dictionaries = dictionaries
        self._dense_transform = dense_transform
        self._growth = growth
        self._read_again = read_again
        self._asked_at: Optional[Position] = None
        self._receiver: Optional[WindowReceiver] = None
        self._cutter = BatchCutter(batch_size, position)
        self._cut: deque[CutBatch] = deque()
        self._ledger: deque[BatchRecord] = deque()
        self._busy = threading.Lock()
        self._ready: deque[Batch] = deque()
        self._batches = 0
        self.last_row_at = time.monotonic()
        self.stale_rows = 0
        self.failure: Optional[Exception] = None

    @property
    def skipped_rows(self) -> int:
        """Rows that arrived again after they had been taken."""
        return self._tracker.skipped_rows

    def next_batch(self) -> BatchRecord:
        """The record of the oldest batch not yet asked about: call it once a step, in order."""
        return self._ledger.popleft()

    def __len__(self) -> int:
        # MindSpore counts an iterable without a length by reading it to its end.
        return UNBOUNDED_LENGTH

    def __iter__(self) -> StreamingDataset:
        return self

    def __next__(self) -> Batch:
        """(id int32[batch, 39], weight float32[batch, 39], label float32[batch, 1])."""
        with self._busy:
            if not self._ready:
                self._prepare()
            return self._ready.popleft()

    def wait_for_batch(self, number: int, seconds: float, give_up: Callable[[], bool]) -> bool:
        """Whether the number-th batch is there, for a caller that must not wait for ever.

        Args:
            number: From 1; the one before it must have been there.
            seconds: How long to wait for it.
            give_up: Asked during the wait.

        Raises:
            Exception: What the pipeline has failed with.
        """
        until = time.monotonic() + seconds
        while self._batches < number:
            if self.failure is not None:
                raise self.failure
            if give_up() or self._flag.is_set() or time.monotonic() >= until:
                return False
            if not self._busy.acquire(timeout=WAIT_SECONDS):
                continue  # it is being prepared
            if self._batches >= number:
                self._busy.release()
                continue
            # Before training begins there is no pipeline to prepare it. Nor can the caller: it must
            # be free while a consumer is waited for, or the answer of the other ranks.
            threading.Thread(target=self._prepare_aside, name="first-batch", daemon=True).start()
        return True

    def _prepare_aside(self) -> None:
        """Prepares a batch in a thread of its own, which was handed the lock."""
        try:
            with contextlib.suppress(Exception):  # it is kept in ``failure``
                self._prepare()
        finally:
            self._busy.release()

    def change_session(self, session: int) -> None:
        """From now on only windows of this session are taken."""
        self._session = session

    def close(self) -> None:
        """Waits for a pending ``__next__`` (the flag must be set) and leaves the channel."""
        with self._busy:
            if self._receiver is not None:
                self._receiver.close()
                self._receiver = None

    def _prepare(self) -> None:
        """Makes the next batch ready."""
        try:
            if not self._cut:
                self._collect()
                self._cut.extend(self._cutter.cut())
            self._ready.append(self._finish(self._cut.popleft()))
            self._batches += 1
        except StopIteration:
            raise
        except Exception as error:
            self.failure = error
            raise

    def _collect(self) -> None:
        """Receives windows until a batch is full."""
        idle_since = time.monotonic()
        while self._cutter.rows < self._cutter.batch_size:
            if self._flag.is_set():
                raise StopIteration
            window = self._receive()
            if window is not None and self._admit(window):
                idle_since = self.last_row_at = time.monotonic()
            elif self._idle_seconds and time.monotonic() - idle_since >= self._idle_seconds:
                self._flag.set(f"no rows for {self._idle_seconds:g} s")

    def _receive(self) -> Optional[Array]:
        if self._receiver is None:
            self._receiver = self._attach()
            self._asked_at = None
            if self._receiver is None:
                return None
        try:
            return self._receiver.receive(RECEIVE_SECONDS, self._flag.is_set)
        except ChannelError as error:
            logger.warning("the channel is gone (%s): waiting for a consumer", error)
            self._receiver.close()
            self._receiver = None
            return None

    def _admit(self, window: Array) -> bool:
        """Keeps the rows of a window that are due; says whether there were any."""
        if int(window["session"][0]) != self._session:
            self.stale_rows += len(window)
            return False
        self._check_dictionaries(int(window["dictionaries"][0]))
        self._check_features(window)
        try:
            due = self._tracker.admit(window["partition"], window["start"], window["offset"])
        except GapError as gap:
            self._ask_again(gap)
            return False
        rows = window if due.all() else window[due]
        if len(rows):
            self._cutter.add(rows)
        return len(rows) > 0

    def _ask_again(self, gap: GapError) -> None:
        """Starts another session, in which the missing rows come.

        A receiver whose queue dies while it asks for a window may ask the queue that follows under
        the same name, and the answer is lost with the first one.

        Raises:
            GapError: Nobody can be asked, or this queue's sender was, at the same position.
        """
        position = self._tracker.position
        if self._read_again is None or position == self._asked_at:
            raise gap
        self._asked_at = position
        logger.warning("%s: reading again from the last checkpoint", gap)
        self._session = self._read_again()

    def _check_dictionaries(self, fingerprint: int) -> None:
        if self._dictionaries is None:
            self._dictionaries = fingerprint
        if fingerprint != self._dictionaries:
            raise DatasetError(
                f"the consumer's dictionaries have fingerprint {fingerprint:016x}, "
                f"this model was trained with {self._dictionaries:016x}"
            )

    def _check_features(self, window: Array) -> None:
        """Refuses windows of a consumer whose flags say something else of the features."""
        told = DENSE_TRANSFORMS[int(window["dense_transform"][0])]
        if told != self._dense_transform:
            raise DatasetError(
                f"the consumer was started with --dense_transform={told}, the trainer with "
                f"--dense_transform={self._dense_transform}: both must be equal"
            )
        names = window.dtype.names
        assert names is not None, "a window is a structured array"
        if ("value" in names) != (self._growth is not None):
            consumer, trainer = ("with", "without") if "value" in names else ("without", "with")
            raise DatasetError(
                f"the consumer was started {consumer} --admit_count, the trainer {trainer}: "
                "both must be told"
            )

    def _finish(self, cut: CutBatch) -> Batch:
        """What MindSpore gets of a batch; the rest goes into the ledger."""
        columns = cut.columns
        ids, oov, change = self._known(columns)
        assert self._dictionaries is not None, "no rows without a window, which was checked"
        self._ledger.append(
            BatchRecord(
                cut.position,
                cut.ranges,
                sum(covered.rows for covered in cut.ranges),
                self._dictionaries,
                columns["label"],
                oov,
                cut.newest_timestamp,
                change,
            )
        )
        return ids, columns["weight"], columns["label"].reshape(-1, 1)

    def _known(self, columns: Columns) -> tuple[Array, Array, Optional[Change]]:
        """(ids, oov, change) of a batch once the growing vocabulary has seen it."""
        if self._growth is None:
            return columns["id"], columns["oov"], None
        first, end = columns["free_ids"][0].tolist()
        return self._growth.grow(columns["id"], columns["oov"], columns["value"], (first, end))
