"""Ranks that stay together, as threads that meet at a barrier.

The real exchange is tried in ``test_ranks.py``; here it is its callers that matter, and the
methods of ``Ranks`` above ``sum`` are the real ones.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, TypeVar, Union

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from src.process.arrays import Array
from src.process.stop import StopFlag
from src.ranks.group import Ranks
from src.ranks.placement import RankError
from src.stream.position import Position, RowRange
from src.trainer import lockstep as lockstep_module
from src.trainer.callbacks import StreamCheckpoint, TrainingProgress, TrainingStopped
from src.trainer.checkpoint import CheckpointError, CheckpointStore, Unit
from src.trainer.dataset import BatchRecord
from src.trainer.lockstep import (
    CheckpointTogether,
    Lockstep,
    SharedSession,
    StepTogether,
    merged,
    packed,
)

Result = TypeVar("Result")
BATCH = 3
pytestmark = pytest.mark.timeout(60)


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

    def sum(self, values: Array) -> Array:
        self.rounds += 1
        self._meeting.parts[self.rank] = values
        self._meeting.barrier.wait()
        total: Array = np.sum(self._meeting.parts, axis=0, dtype=np.float32)
        self._meeting.barrier.wait()
        return total


def together(
    size: int, body: Callable[[ThreadRanks], Result]
) -> list[Union[Result, BaseException]]:
    """What becomes of each of several ranks: what it returns, or the error that ends it."""
    meeting = Meeting(size)
    results: list[Union[Result, BaseException]] = [RuntimeError("did not end")] * size

    def run(rank: int) -> None:
        try:
            results[rank] = body(ThreadRanks(rank, meeting))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            results[rank] = error
            if not isinstance(error, (RankError, TrainingStopped, CheckpointError)):
                meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# --- rounds


def test_a_round_tells_all_what_each_has_said() -> None:
    def body(ranks: ThreadRanks) -> Any:
        stop, said = Lockstep(ranks, StopFlag()).round(ranks.rank, 10 - ranks.rank)
        return stop, said.tolist()

    assert together(3, body) == [(False, [[0, 10], [1, 9], [2, 8]])] * 3


def test_a_stop_at_one_rank_is_one_at_all_and_is_put_down_to_it() -> None:
    def body(ranks: ThreadRanks) -> Any:
        flag = StopFlag()
        if ranks.rank == 2:
            flag.set("SIGTERM")
        stop, _ = Lockstep(ranks, flag).round()
        return stop, flag.is_set(), flag.reason

    asked = (True, True, "rank 2 asked for a stop")
    assert together(4, body) == [asked, asked, (True, True, "SIGTERM"), asked]


def test_a_stop_asked_for_in_mid_round_is_agreed_on_in_the_next_one() -> None:
    def body(ranks: ThreadRanks) -> Any:
        flag = StopFlag()
        lockstep = Lockstep(ranks, flag)
        first, _ = lockstep.round()
        if ranks.rank == 0:
            flag.set("SIGTERM")
        second, _ = lockstep.round()
        return first, second

    assert together(2, body) == [(False, True)] * 2


def test_something_is_tried_until_it_has_come_off_on_all_ranks() -> None:
    def body(ranks: ThreadRanks) -> Any:
        attempts: list[int] = []

        def attempt() -> bool:
            attempts.append(1)
            return len(attempts) > 2 * ranks.rank

        return Lockstep(ranks, StopFlag()).until_all(attempt), len(attempts), ranks.rounds

    assert together(3, body) == [(True, 1, 5), (True, 3, 5), (True, 5, 5)]


def test_trying_ends_on_all_ranks_when_one_is_to_stop() -> None:
    def body(ranks: ThreadRanks) -> Any:
        flag = StopFlag()
        attempts: list[int] = []

        def attempt() -> bool:
            attempts.append(1)
            if ranks.rank == 1 and len(attempts) == 3:
                flag.set("SIGTERM")
            return ranks.is_first

        return Lockstep(ranks, flag).until_all(attempt), ranks.rounds

    assert together(2, body) == [(False, 3)] * 2


def test_the_others_keep_rank_0_company_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockstep_module, "BUSY_SECONDS", 0.05)

    def work() -> str:
        time.sleep(0.5)
        return "done"

    def body(ranks: ThreadRanks) -> Any:
        return Lockstep(ranks, StopFlag()).on_first(work), ranks.rounds

    results: Any = together(3, body)
    assert [result for result, _ in results] == ["done", None, None]
    assert {rounds for _, rounds in results} == {results[0][1]}
    assert results[0][1] >= 5, "nobody may be silent for as long as the work takes"


def test_an_error_of_rank_0_is_one_on_all_ranks() -> None:
    def work() -> str:
        raise CheckpointError("the disk is full")

    def body(ranks: ThreadRanks) -> Any:
        return Lockstep(ranks, StopFlag()).on_first(work)

    first, *others = together(3, body)
    assert isinstance(first, CheckpointError) and str(first) == "the disk is full"
    for other in others:
        assert isinstance(other, RankError) and "rank 0 has failed" in str(other)


def test_a_rank_that_is_alone_works_without_a_round() -> None:
    threads: list[threading.Thread] = []

    def work() -> str:
        threads.append(threading.current_thread())
        return "done"

    assert Lockstep(Ranks(), StopFlag()).on_first(work) == "done"
    assert threads == [threading.current_thread()]


# --- what a rank says of its batch


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


def told(*records: Optional[BatchRecord]) -> Array:
    return np.stack([packed(record, BATCH) for record in records])


def test_a_merged_record_has_every_ranks_rows_rank_by_rank() -> None:
    ranks = [record(4, rank) for rank in range(3)]
    for own in ranks:
        batch = merged(own, told(*ranks))
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
    assert merged(own, told(own)).newest_timestamp == timestamp


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
            merged(own, told(*parts))


# --- rows asked for again


def test_a_pipeline_that_asks_waits_for_the_session_that_all_begin() -> None:
    shared = SharedSession()
    got: list[int] = []
    pipeline = threading.Thread(target=lambda: got.append(shared.ask()))
    assert not shared.is_wanted()
    pipeline.start()
    while not shared.is_wanted():
        time.sleep(0.001)
    assert got == []
    shared.begin(78)
    pipeline.join(10)
    assert got == [78]
    assert not shared.is_wanted()


def test_a_session_begun_before_is_no_answer() -> None:
    shared = SharedSession()
    shared.begin(77)
    got: list[int] = []
    pipeline = threading.Thread(target=lambda: got.append(shared.ask()))
    pipeline.start()
    pipeline.join(0.2)
    assert got == []
    assert shared.is_wanted()
    shared.begin(78)
    pipeline.join(10)
    assert got == [78]


def test_a_pipeline_that_asks_is_let_go_when_there_will_be_no_answer() -> None:
    shared = SharedSession()
    pipeline = threading.Thread(target=shared.ask)
    pipeline.start()
    shared.close()
    pipeline.join(10)
    assert not pipeline.is_alive()


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
            idle_seconds=options.get("idle_seconds", 0.0),
            shared=self.shared,
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
    for rank in together(size, body):
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

    first, second = together(2, body)
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

    for error in together(3, body):
        assert isinstance(error, RankError)
        assert "rank 2 has other rows than rank 0" in str(error)


# --- checkpoints


class OneWeight(nn.Cell):  # type: ignore[misc]
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor(np.full(3, value, np.float32)), name="weight")


class SavingRank:
    """One rank's checkpoints; rank 0's are real ones."""

    def __init__(self, ranks: ThreadRanks, folder: Path, value: float = 1.0) -> None:
        self.progress = TrainingProgress(0, Position({0: 0}))
        self.network = OneWeight(value)
        self.saved: list[Unit] = []
        checkpoint = None
        if ranks.is_first:
            checkpoint = StreamCheckpoint(
                *(CheckpointStore(folder, "w", 9), self.network, self.progress, 2, "clicks", {}),
                on_saving=lambda: None,
                on_saved=self.saved.append,
            )
        self.together = CheckpointTogether(
            lockstep=Lockstep(ranks, StopFlag()),
            ranks=ranks,
            network=self.network,
            progress=self.progress,
            every_steps=2,
            checkpoint=checkpoint,
        )


def test_when_a_checkpoint_is_saved_every_rank_knows_that_it_is_durable(tmp_path: Path) -> None:
    def body(ranks: ThreadRanks) -> Any:
        rank = SavingRank(ranks, tmp_path)
        seen = []
        for step in range(1, 5):
            rank.progress.step = step
            rank.together.on_train_step_end(None)
            seen.append(sorted(path.name for path in tmp_path.glob("*.json")))
        return seen, [unit.step for unit in rank.saved]

    seen: list[list[str]] = [[], ["w-1_2.json"], ["w-1_2.json"], ["w-1_2.json", "w-1_4.json"]]
    first, *others = together(3, body)
    assert first == (seen, [2, 4])
    assert others == [(seen, [])] * 2


def test_weights_that_differ_are_not_saved_and_end_all_ranks(tmp_path: Path) -> None:
    def body(ranks: ThreadRanks) -> Any:
        rank = SavingRank(ranks, tmp_path, value=1.0 if ranks.rank != 1 else 1.0000001)
        rank.progress.step = 2
        rank.together.save_now()

    for error in together(3, body):
        assert isinstance(error, RankError)
        assert "rank 1 differs from rank 0 in weight" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_is_an_error_on_all_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"

    def body(ranks: ThreadRanks) -> Any:
        rank = SavingRank(ranks, folder)
        if ranks.is_first:
            folder.rmdir()
        rank.progress.step = 2
        rank.together.save_now()

    first, second = together(2, body)
    assert isinstance(first, CheckpointError)
    assert isinstance(second, RankError) and "rank 0 has failed" in str(second)


# --- weights, with the real methods of Ranks


def test_make_equal_and_verify_equal_name_what_differs() -> None:
    def body(ranks: ThreadRanks) -> Any:
        network = OneWeight(ranks.rank // 2)
        differing = ranks.differing(network)
        sent = ranks.make_equal(network)
        return differing, sent, network.weight.asnumpy().tolist()

    assert together(4, body) == [({"weight": [2, 3]}, 1, [0.0] * 3)] * 4
