"""StreamingDataset: windows from the channel become whole batches for MindSpore.

Guarantee: the batches hold every row from the starting position on exactly once and in stream
order (see ``admission.py``). For each batch handed out the ledger keeps the position after it. So
the position at step n is that of the first n batches, however far a pipeline has read ahead.
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

from src.channel.batches import BatchCutter, Columns, CutBatch
from src.channel.engine import ChannelError
from src.channel.receiver import WindowReceiver
from src.dictionaries.vocabulary import Change
from src.process.arrays import Array
from src.process.stop import StopFlag
from src.rows.criteo import FIELD_SIZE
from src.stream.position import Position, RowRange
from src.trainer.admission import StreamStart, WindowAdmission

logger = logging.getLogger(__name__)

Batch = tuple[Array, ...]
RECEIVE_SECONDS = 0.2
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
        labels: float32[batch] of this shard's rows.
        oov: uint32[batch], their fields that are out of vocabulary, see ``oov.oov_bits``.
        newest_timestamp: When the newest of their messages was sent, ms since 1970.
        change: What the batch has changed in a growing vocabulary; None without one.
        ids: int32[batch, 39] of this shard's rows, after the vocabulary has grown.
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
        idle_seconds: How long the stream may be idle; 0 for ever.
        read_again: Requests lost rows again, see ``WindowAdmission``.
    """

    def __init__(
        self,
        receiver: WindowReceiver | None,
        start: StreamStart,
        batch_size: int,
        flag: StopFlag,
        attach: Callable[[], WindowReceiver | None],
        idle_seconds: float = 0.0,
        read_again: Callable[[], int] | None = None,
    ) -> None:
        self._receiver = receiver
        self._attach = attach
        self._admission = WindowAdmission(start, read_again)
        self._growth = start.growth
        self._flag = flag
        self._idle_seconds = idle_seconds
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

        Where the trainer learns crosses, key int32[batch, 39] comes after these.
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
                self._collect()
                self._cut.extend(self._cutter.cut())
            self._ready.append(self._finish(self._cut.popleft()))
            self.batches += 1
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
            rows = None if window is None else self._admission.due_rows(window)
            self._admission.take_stream_back()
            if rows is not None and len(rows):
                self._cutter.add(rows)
                idle_since = self.last_row_at = time.monotonic()
            elif self._idle_seconds and time.monotonic() - idle_since >= self._idle_seconds:
                self._flag.set(f"no rows for {self._idle_seconds:g} s")

    def _receive(self) -> Array | None:
        if self._receiver is None:
            self._receiver = self._attach()
            self._admission.change_sender()
            if self._receiver is None:
                return None
        try:
            return self._receiver.receive(RECEIVE_SECONDS, self._flag.is_set)
        except ChannelError as error:
            logger.warning("the channel is gone (%s): waiting for a consumer", error)
            self._receiver.close()
            self._receiver = None
            return None

    def _finish(self, cut: CutBatch) -> Batch:
        """What MindSpore gets of a batch; the rest goes into the ledger."""
        columns = cut.columns
        ids, oov, change = self._known(columns)
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
            )
        )
        batch = (ids, columns["weight"], columns["label"].reshape(-1, 1))
        return (*batch, columns["key"]) if "key" in columns else batch

    def _known(self, columns: Columns) -> tuple[Array, Array, Change | None]:
        """(ids, oov, change) of a batch once the growing vocabulary has taken it."""
        if self._growth is None:
            return columns["id"], columns["oov"], None
        first, end = columns["free_ids"][0].tolist()
        return self._growth.grow(columns["id"], columns["oov"], columns["value"], (first, end))
