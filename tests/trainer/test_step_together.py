"""Steps that start on all ranks or on none, with ranks as threads that meet at a barrier."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from src.checkpoints.unit import CheckpointError
from src.process.arrays import Array
from src.process.stop import IdleLimit, StopFlag
from src.ranks.placement import RankError
from src.ranks.rounds import Lockstep, SharedClosing, SharedSession
from src.stream.position import Position, RowRange
from src.trainer.callbacks import TrainingProgress, TrainingStopped
from src.trainer.dataset import BatchRecord
from src.trainer.step_together import StepTogether, merged, packed
from tests.ranks.thread_ranks import ThreadRanks, together

BATCH = 3
ENDS = (TrainingStopped, CheckpointError)
pytestmark = pytest.mark.timeout(60)


# --- what a rank reports of its batch


def record(
    number: int = 0,
    rank: int = 0,
    timestamp: int = 1_764_000_000_123,
    dictionaries: int = 2**64 - 1,
) -> BatchRecord:
    """Rank r's part of the number-th batch; its labels and bits tell whose they are."""
    first, last = 6 * number, 6 * number + 5
    return BatchRecord(
        Position({0: last + 1, 1: 0}, 0),
        [RowRange(0, first, last, 6)],
        6,
        dictionaries,
        np.array([rank, number, 1], np.float32),
        np.array([0xFFFFFFFF, 0x80000001 + rank, 0x12345 * number], np.uint32),
        timestamp + rank,
    )


def packed_all(*records: BatchRecord | None) -> Array:
    return np.stack([packed(record, BATCH) for record in records])


def test_a_merged_record_has_every_ranks_rows_rank_by_rank() -> None:
    ranks = [record(4, rank) for rank in range(3)]
    for own in ranks:
        batch = merged(own, packed_all(*ranks))
        assert (batch.position, batch.ranges, batch.rows) == (own.position, own.ranges, 6)
        assert batch.dictionaries == own.dictionaries
        assert batch.labels.tolist() == [0, 4, 1, 1, 4, 1, 2, 4, 1]
        assert batch.labels.dtype == np.float32
        assert batch.oov.tolist() == [bits for part in ranks for bits in part.oov.tolist()]
        assert batch.oov.dtype == np.uint32
        assert batch.newest_timestamp == 1_764_000_000_125


@pytest.mark.parametrize("timestamp", [0, 1, 0xFFFF, 0x10000, 2**32 - 1, 2**32, 2**47])
def test_the_newest_timestamp_arrives_to_the_millisecond(timestamp: int) -> None:
    own = record(timestamp=timestamp)
    assert merged(own, packed_all(own)).newest_timestamp == timestamp


def test_what_is_said_of_a_batch_is_as_long_as_what_is_said_of_none() -> None:
    assert packed(record(), BATCH).shape == packed(None, BATCH).shape
    assert packed(record(), BATCH).dtype == packed(None, BATCH).dtype == np.float32
    assert not packed(None, BATCH).any()


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ([record(1), record(2)], "rank 1 has other rows than rank 0"),
        ([record(1), record(1, 1), record(2), record(3)], "rank 2, 3 has other rows"),
        ([record(1), record(1, dictionaries=7)], "rank 1 has other rows"),
        (
            [record(1), dataclasses.replace(record(1), ranges=[RowRange(0, 6, 11, 5)])],
            "rank 1 has other rows",
        ),
        (
            [record(1), dataclasses.replace(record(1), position=Position({0: 12, 1: 1}, 0))],
            "rank 1 has other rows",
        ),
    ],
)
def test_ranks_with_rows_of_different_stripes_are_named(
    parts: list[BatchRecord], named: str
) -> None:
    for own in parts:
        with pytest.raises(RankError, match=f"{named}.*no longer step together at 0:"):
            merged(own, packed_all(*parts))


# --- steps


class ListedBatches:
    """A rank's stream: each batch is there after so many waits for it."""

    def __init__(self, rank: int, waits: list[int]) -> None:
        self.last_row_at = time.monotonic()
        self.session = 1
        self.waited = 0
        self._rank = rank
        self._waits = waits
        self._next = 0

    def wait_for_batch(self, number: int, seconds: float, give_up: Callable[[], bool]) -> bool:
        assert number == self._next + 1
        self.waited += 1
        if number > len(self._waits):
            time.sleep(min(seconds, 0.01))
            return False
        if self._waits[number - 1] > 0:
            self._waits[number - 1] -= 1
            return False
        return True

    def next_batch(self) -> BatchRecord:
        self._next += 1
        return record(self._next - 1, self._rank)

    def change_session(self, session: int) -> None:
        self.session = session


class TrainingRank:
    """What goes on in one rank's callbacks, without a network."""

    def __init__(self, ranks: ThreadRanks, waits: list[int], **options: Any) -> None:
        self.ranks = ranks
        self.flag = StopFlag()
        self.progress = TrainingProgress(100, Position({0: 0, 1: 0}))
        self.stream = ListedBatches(ranks.rank, list(waits))
        self.shared = SharedSession()
        self.closing = SharedClosing(self.flag)
        self.sessions = iter(range(50, 60))
        self.batches: list[BatchRecord] = []
        self.reason = ""
        self.steps = StepTogether(
            lockstep=Lockstep(ranks, self.flag),
            ranks=ranks,
            stream=self.stream,
            progress=self.progress,
            flag=self.flag,
            batch_size=BATCH,
            max_steps=options.get("max_steps", 0),
            idle=IdleLimit(self.flag, options.get("idle_seconds", 0.0)),
            shared=self.shared,
            closing=self.closing,
            read_again=lambda: next(self.sessions),
        )

    def train(self, after_step: Callable[[int], None] = lambda step: None) -> TrainingRank:
        """Trains until all stop."""
        try:
            self.steps.on_train_begin(None)
            while True:
                self.batches.append(self.steps.next_batch())
                self.progress.steps_done += 1
                after_step(self.progress.steps_done)
                self.steps.on_train_step_end(None)
        except TrainingStopped as stopped:
            self.reason = str(stopped)
        return self


def trained(size: int, body: Callable[[ThreadRanks], TrainingRank]) -> list[TrainingRank]:
    """The ranks after training, all having ended without an error."""
    ranks = []
    for rank in together(size, body, ENDS):
        assert isinstance(rank, TrainingRank), rank
        ranks.append(rank)
    return ranks


def test_a_step_begins_on_all_ranks_or_on_none() -> None:
    waits = [[0, 0, 0], [0, 5, 0], [2, 0, 0]]
    ranks = trained(3, lambda r: TrainingRank(r, waits[r.rank], max_steps=3).train())
    for rank in ranks:
        assert rank.progress.steps_done == 3
        assert [batch.position.offsets[0] for batch in rank.batches] == [6, 12, 18]
        assert [batch.labels.tolist() for batch in rank.batches] == [
            [0, number, 1, 1, number, 1, 2, number, 1] for number in range(3)
        ]
        assert rank.ranks.rounds == 3 + 2 + 5, "a round more for each wait of any rank"
        assert rank.reason == "3 steps are done"
    assert [rank.stream.waited for rank in ranks] == [3, 3 + 5, 3 + 2], "what is there stays there"


@pytest.mark.parametrize("who", [0, 1])
def test_a_stop_at_any_rank_ends_training_after_the_same_step_on_all(who: int) -> None:
    def body(ranks: ThreadRanks) -> TrainingRank:
        rank = TrainingRank(ranks, [0] * 50)

        def stop_after(step: int) -> None:
            if ranks.rank == who and step == 7:
                rank.flag.set("SIGTERM")

        return rank.train(stop_after)

    for rank in trained(2, body):
        assert rank.progress.steps_done == 7
        assert rank.flag.is_set()
        own = rank.ranks.rank == who
        assert rank.reason == ("SIGTERM" if own else f"rank {who} asked for a stop")


def test_a_stop_ends_ranks_that_wait_for_rows_of_different_age() -> None:
    """A batch that one rank has and another lacks is trained on neither."""

    def body(ranks: ThreadRanks) -> TrainingRank:
        rank = TrainingRank(ranks, [0, 0] if ranks.is_first else [0])
        threading.Timer(0.3, lambda: rank.flag.set("SIGTERM")).start() if ranks.rank else None
        return rank.train()

    for rank in trained(2, body):
        assert rank.progress.steps_done == 1
        assert rank.reason in ("SIGTERM", "rank 1 asked for a stop")


def test_no_rows_for_too_long_at_one_rank_stop_all() -> None:
    def body(ranks: ThreadRanks) -> TrainingRank:
        waits = [0, 0] if ranks.is_first else [0]
        return TrainingRank(ranks, waits, idle_seconds=0.3).train()

    began = time.monotonic()
    first, second = trained(2, body)
    assert 0.3 <= time.monotonic() - began < 5
    assert first.progress.steps_done == second.progress.steps_done == 1
    assert second.reason == "no rows for 0.3 s"
    assert first.reason == "rank 1 asked for a stop"


def test_rows_that_one_rank_misses_are_sent_again_to_all() -> None:
    def body(ranks: ThreadRanks) -> TrainingRank:
        rank = TrainingRank(ranks, [0, 0, 0, 0], max_steps=4)
        asked: list[int] = []

        def miss_rows_after(step: int) -> None:
            if ranks.rank == 1 and step == 2:
                threading.Thread(target=lambda: asked.append(rank.shared.ask())).start()
                while not rank.shared.is_wanted():
                    time.sleep(0.001)

        rank.train(miss_rows_after)
        time.sleep(0.1)
        assert asked == ([50] if ranks.rank == 1 else [])
        return rank

    for rank in trained(3, body):
        assert rank.stream.session == 50, "rank 0's session"
        assert rank.progress.steps_done == 4
        assert not rank.shared.is_wanted()
        assert next(rank.sessions) == (51 if rank.ranks.is_first else 50)


def test_a_session_that_rank_0_cannot_begin_is_an_error_on_all_ranks() -> None:
    def fail() -> int:
        raise CheckpointError("the broker is away")

    def body(ranks: ThreadRanks) -> TrainingRank:
        rank = TrainingRank(ranks, [0, 0])
        rank.steps._read_again = fail
        rank.shared._wanted.set()
        return rank.train()

    first, second = together(2, body, ENDS)
    assert isinstance(first, CheckpointError)
    assert isinstance(second, RankError)


def test_ranks_whose_rows_differ_end_with_an_error_on_all_of_them() -> None:
    def body(ranks: ThreadRanks) -> TrainingRank:
        rank = TrainingRank(ranks, [0] * 5)

        def skip_a_batch(step: int) -> None:
            if ranks.rank == 2 and step == 2:
                rank.stream._next += 1
                rank.progress.steps_done += 1

        return rank.train(skip_a_batch)

    for error in together(3, body, ENDS):
        assert isinstance(error, RankError)
        assert "rank 2 has other rows than rank 0" in str(error)
