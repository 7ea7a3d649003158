"""StreamingDataset: windows from the channel become batches of one shape for MindSpore.

Guarantee: the batches hold every row from the starting position on exactly once and in stream
order (see ``admission.py``). For each batch handed out the ledger keeps the position after it. So
the position at step n is that of the first n batches, however far a pipeline has read ahead.

With ``batch_seconds`` a batch is also closed by time: what is there is trained, and filler rows
give the batch its shape. The ledger knows nothing of fillers.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from src.channel.batches import BatchCutter, Columns, CutBatch, filled_up
from src.channel.engine import ChannelError
from src.channel.receiver import WindowReceiver
from src.dictionaries.growing.vocabulary import Change
from src.process.arrays import Array
from src.process.stop import IdleLimit, StopFlag
from src.rows.criteo import FIELD_SIZE
from src.stream.position import Position, RowRange
from src.trainer.admission import StreamStart, WindowAdmission

logger = logging.getLogger(__name__)

Batch = tuple[Array, ...]
RECEIVE_SECONDS = 0.2
LOOK_SECONDS = 0.1
"""Before a batch is closed by time: after a long step more rows may wait in the channel."""
UNBOUNDED_LENGTH = 2**31 - 1
NO_IDS: Array = np.zeros((0, FIELD_SIZE), dtype=np.int32)


@dataclass(frozen=True, eq=False)
class BatchRecord:
    """What a batch was made of.

    Attributes:
        position: The position after it.
        ranges: The rows in it, by partition, over all shards.
        rows: How many, over all shards.
        dictionaries: Fingerprint of the dictionaries that made its ids.
        labels: float32[rows] of this shard's rows.
        oov: uint32[rows], their fields that are out of vocabulary, see ``oov.oov_bits``.
        newest_timestamp: When the newest of their messages was sent, ms since 1970.
        change: What the batch has changed in a growing vocabulary; None without one.
        ids: int32[rows, 39] of this shard's rows, after the vocabulary has grown.
        is_row: bool[n], which of the network's n outputs are rows and not fillers; None where all
            are.
    """

    position: Position
    ranges: list[RowRange]
    rows: int
    dictionaries: int
    labels: Array
    oov: Array
    newest_timestamp: int
    change: Change | None = None
    ids: Array = NO_IDS
    is_row: Array | None = None

    def of_rows(self, outputs: Array) -> Array:
        """The network's outputs without those of fillers: [n] or [n, 1] → the same or [rows]."""
        return outputs if self.is_row is None else outputs.reshape(-1)[self.is_row]


class StreamingDataset:
    """An endless iterable of batches for ``mindspore.dataset.GeneratorDataset``.

    ``__next__`` runs in a thread of MindSpore's pipeline. It ends the iteration when the stop flag
    is set or the stream stays idle. MindSpore reports that as an error of its own: the caller tells
    the two apart by the flag, and finds a real error in ``failure``.

    Args:
        receiver: The receiving end of the channel; None leaves the first one to ``attach`` too.
        start: Where the stream starts, and what its windows must be like.
        batch_size: Rows per batch.
        flag: Ends the iteration when set, and is set when the stream is idle for too long.
        attach: Attaches to the next channel after a receiver has lost its own, waiting for its
            sender; None when the wait was stopped. It raises where there will be no sender.
        idle: Ends the stream when it is idle for too long; None never.
        read_again: Requests lost rows again, see ``WindowAdmission``.
        batch_seconds: How long a row may wait for its batch to become full; 0 for ever.
        rows_to_train: When that time is over: takes a batch's number, from 1, and the rows held.
            Returns how many of them to train; 0 goes on waiting. By default all of them.
    """

    def __init__(
        self,
        receiver: WindowReceiver | None,
        start: StreamStart,
        batch_size: int,
        flag: StopFlag,
        attach: Callable[[], WindowReceiver | None],
        idle: IdleLimit | None = None,
        read_again: Callable[[], int] | None = None,
        batch_seconds: float = 0.0,
        rows_to_train: Callable[[int, int], int] = lambda number, rows: rows,
    ) -> None:
        self._receiver = receiver
        self._attach = attach
        self._admission = WindowAdmission(start, read_again)
        self._growth = start.growth
        self._flag = flag
        self._idle = idle or IdleLimit(flag, 0)
        self._batch_seconds = batch_seconds
        self._rows_to_train = rows_to_train
        self._cutter = BatchCutter(batch_size, start.position)
        self._cut: deque[CutBatch] = deque()
        self._ledger: deque[BatchRecord] = deque()
        self._preparing = threading.Lock()
        self._ready: deque[Batch] = deque()
        self.batches = 0
        """Batches that were prepared so far."""
        self.last_row_at = time.monotonic()
        self.failure: Exception | None = None

    @property
    def skipped_rows(self) -> int:
        """Rows that arrived again after they had been taken."""
        return self._admission.skipped_rows

    @property
    def stale_rows(self) -> int:
        """Rows dropped, as their window was read for another session."""
        return self._admission.stale_rows

    def next_batch(self) -> BatchRecord:
        """The oldest batch's record that was not returned yet: call it once a step, in order."""
        return self._ledger.popleft()

    def change_session(self, session: int) -> None:
        """From now on only windows of this session are taken."""
        self._admission.change_session(session)

    def __len__(self) -> int:
        # MindSpore counts an iterable without a length by reading it to its end.
        return UNBOUNDED_LENGTH

    def __iter__(self) -> StreamingDataset:
        return self

    def __next__(self) -> Batch:
        """(id int32[batch, 39], weight float32[batch, 39], label float32[batch, 1]).

        A batch that was closed by time has filler rows behind its own; their label is
        ``FILLER_LABEL``. Where the trainer learns crosses, key int32[batch, 39] comes after these.
        """
        with self._preparing:
            if not self._ready:
                self._prepare()
            return self._ready.popleft()

    def prepare_aside(self, number: int, timeout: float) -> None:
        """Has the number-th batch prepared in a thread of its own, where no pipeline does so yet.

        Returns without doing anything if the batch is there, or if another one is being prepared
        for longer than ``timeout`` seconds.
        """
        if not self._preparing.acquire(timeout=timeout):
            return
        if self.batches >= number:
            self._preparing.release()
            return
        threading.Thread(target=self._prepare_and_release, name="first-batch", daemon=True).start()

    def _prepare_and_release(self) -> None:
        try:
            with contextlib.suppress(Exception):  # it is kept in ``failure``
                self._prepare()
        finally:
            self._preparing.release()

    def close(self) -> None:
        """Waits for a pending ``__next__`` (the flag must be set) and leaves the channel."""
        with self._preparing:
            if self._receiver is not None:
                self._receiver.close()
                self._receiver = None

    def _prepare(self) -> None:
        """Makes the next batch ready."""
        try:
            if not self._cut:
                self._cut.extend(self._collect())
            self._ready.append(self._finish(self._cut.popleft()))
            self.batches += 1
        except StopIteration:
            raise
        except Exception as error:
            self.failure = error
            raise

    def _collect(self) -> list[CutBatch]:
        """Receives windows until a batch is full, or its time is over."""
        idle_since = time.monotonic()
        look_until = idle_since + LOOK_SECONDS
        while self._cutter.rows < self._cutter.batch_size:
            if self._flag.is_set():
                raise StopIteration
            wait = min(RECEIVE_SECONDS, self._time_left(look_until))
            if wait <= 0:
                part = self._rows_to_train(self.batches + 1, self._cutter.rows)
                if part:
                    return [self._cutter.cut_part(part)]
                wait = RECEIVE_SECONDS
                look_until = time.monotonic() + wait
            window = self._receive(wait)
            rows = None if window is None else self._admission.due_rows(window)
            self._admission.take_stream_back()
            if rows is not None and len(rows):
                idle_since = self.last_row_at = time.monotonic()
                self._cutter.add(rows, came_at=idle_since)
            else:
                self._idle.check(idle_since)
        return self._cutter.cut()

    def _time_left(self, look_until: float) -> float:
        """How long the rows held may go on waiting for their batch to become full, seconds."""
        if not self._batch_seconds or not self._cutter.rows:
            return float("inf")
        if self._receiver is None:  # the wait for another consumer may be long
            return 0.0
        until = max(self._cutter.oldest_since + self._batch_seconds, look_until)
        return until - time.monotonic()

    def _receive(self, seconds: float) -> Array | None:
        if self._receiver is None:
            self._receiver = self._attach()
            self._admission.change_sender()
            if self._receiver is None:
                return None
        try:
            return self._receiver.receive(seconds, self._flag.is_set)
        except ChannelError as error:
            logger.warning("the channel is gone (%s): waiting for a consumer", error)
            self._receiver.close()
            self._receiver = None
            return None

    def _finish(self, cut: CutBatch) -> Batch:
        """What MindSpore gets of a batch; the rest goes into the ledger."""
        columns = cut.columns
        self._admission.check_ids(columns["id"])
        ids, oov, change = self._known(columns)
        size, rows = self._cutter.batch_size, len(ids)
        dictionaries = self._admission.dictionaries
        assert dictionaries is not None, "no rows without a window, which was checked"
        self._ledger.append(
            BatchRecord(
                cut.position,
                cut.ranges,
                sum(covered.rows for covered in cut.ranges),
                dictionaries,
                columns["label"],
                oov,
                cut.newest_timestamp,
                change,
                ids,
                None if rows == size else np.arange(size) < rows,
            )
        )
        keys = [columns["key"]] if "key" in columns else []
        return filled_up([ids, columns["weight"], columns["label"].reshape(-1, 1), *keys], size)

    def _known(self, columns: Columns) -> tuple[Array, Array, Change | None]:
        """(ids, oov, change) of a batch once the growing vocabulary has taken it."""
        if self._growth is None:
            return columns["id"], columns["oov"], None
        first, end = columns["free_ids"][0].tolist()
        return self._growth.grow(columns["id"], columns["oov"], columns["value"], (first, end))
