"""Batches that all ranks close by time: ranks as threads, each with its own stream and pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from src.channel.batches import FILLER_LABEL
from src.process.arrays import Array
from src.process.stop import IdleLimit, StopFlag
from src.ranks.rounds import Lockstep, SharedClosing, SharedSession
from src.stream.position import Position
from src.trainer.admission import StreamStart
from src.trainer.callbacks import TrainingProgress, TrainingStopped
from src.trainer.dataset import BatchRecord, StreamingDataset
from src.trainer.step_together import RankStream, StepTogether
from tests.ranks.thread_ranks import ThreadRanks, together
from tests.trainer.test_dataset import SESSION, window
from tests.trainer.test_rank_stream import LateWindows

BATCH = 4
BATCH_SECONDS = 0.2
Arrivals = Sequence[tuple[float, Sequence[int]]]
"""(seconds before it comes, offsets) of each window."""

pytestmark = pytest.mark.timeout(60)


class Rank:
    """A rank from its channel to its callbacks, without a network.

    Every rank gets the same offsets, as those of a window are of whole stripes.
    """

    def __init__(self, ranks: ThreadRanks, arrivals: Arrivals) -> None:
        self.flag, self.stream_flag = StopFlag(), StopFlag()
        self.records: list[BatchRecord] = []
        self.batches: list[tuple[Array, ...]] = []
        self.times: list[float] = []
        self._windows = LateWindows()
        self._arrivals = arrivals
        closing = SharedClosing(self.stream_flag)
        self._stream = StreamingDataset(
            self._windows,  # type: ignore[arg-type]
            StreamStart(Position({0: 0}), SESSION),
            BATCH,
            self.stream_flag,
            attach=lambda: None,
            batch_seconds=BATCH_SECONDS,
            rows_to_train=closing.offer,
        )
        self._progress = TrainingProgress(0, Position({0: 0}))
        self._steps = StepTogether(
            lockstep=Lockstep(ranks, self.flag),
            ranks=ranks,
            stream=RankStream(self._stream, self.stream_flag),
            progress=self._progress,
            flag=self.flag,
            batch_size=BATCH,
            max_steps=0,
            idle=IdleLimit(self.flag, 0),
            shared=SharedSession(),
            closing=closing,
            read_again=lambda: SESSION,
        )

    def train(self) -> Rank:
        """Trains every row that arrives, and stops."""
        rows = sum(len(offsets) for _, offsets in self._arrivals)
        threads = [threading.Thread(target=run) for run in (self._send, self._read_ahead)]
        began = time.monotonic()
        threads[0].start()
        try:
            self._steps.on_train_begin(None)
            threads[1].start()
            while True:
                self.records.append(self._steps.next_batch())
                self.times.append(time.monotonic() - began)
                self._progress.steps_done += 1
                if self.records[-1].position.offsets[0] == rows:
                    self.flag.set("all rows are trained")
                self._steps.on_train_step_end(None)
        except TrainingStopped:
            return self
        finally:
            self.stream_flag.set("training has ended")
            for thread in threads:
                thread.join()

    def _send(self) -> None:
        for seconds, offsets in self._arrivals:
            time.sleep(seconds)
            self._windows.send(window(list(offsets)))

    def _read_ahead(self) -> None:
        self.batches.extend(self._stream)


def trained(*arrivals: Arrivals) -> list[Rank]:
    """The ranks after the last row, each with as many windows as the others."""
    ranks = together(
        len(arrivals), lambda ranks: Rank(ranks, arrivals[ranks.rank]).train(), (TrainingStopped,)
    )
    for rank in ranks:
        assert isinstance(rank, Rank), rank
    return [rank for rank in ranks if isinstance(rank, Rank)]


def offsets_of_steps(rank: Rank) -> list[list[int]]:
    """The offsets of each step's rows, without fillers."""
    return [ids[:, 0][label.ravel() != FILLER_LABEL].tolist() for ids, _, label, *_ in rank.batches]


def test_ranks_that_hold_equally_many_rows_train_them_once_the_last_has_waited() -> None:
    ranks = trained([(0.0, range(3))], [(0.3, range(3))])
    for rank in ranks:
        assert offsets_of_steps(rank) == [[0, 1, 2]]
        (record,) = rank.records
        assert record.labels.tolist() == [0, 1, 0, 0, 1, 0], "of both ranks, without fillers"
        assert record.of_rows(np.arange(8)).tolist() == [0, 1, 2, 4, 5, 6]
        assert 0.3 + BATCH_SECONDS <= rank.times[0] < 3


def test_a_rank_whose_batch_is_full_has_the_others_wait_for_theirs() -> None:
    slow: Arrivals = [(0.0, range(3)), (1.0, range(3, 5))]
    ranks = trained([(0.0, range(3)), (0.0, range(3, 5))], slow)
    for rank in ranks:
        assert offsets_of_steps(rank) == [[0, 1, 2, 3], [4]]
        assert rank.times[0] >= 1.0


def test_ranks_that_hold_different_numbers_of_rows_train_the_stripes_that_all_have() -> None:
    slow: Arrivals = [(0.0, range(2)), (1.0, range(2, 3))]
    ranks = trained([(0.0, range(2)), (0.0, range(2, 3))], slow)
    for rank in ranks:
        assert offsets_of_steps(rank) == [[0, 1], [2]]
        assert rank.times[0] < 1.0 <= rank.times[1]


def test_a_rank_without_rows_is_waited_for() -> None:
    ranks = trained([(0.0, range(2))], [(1.0, range(2))])
    for rank in ranks:
        assert offsets_of_steps(rank) == [[0, 1]]


@pytest.mark.parametrize("seed", range(2))
def test_ranks_stay_together_whenever_their_windows_come(seed: int) -> None:
    random = np.random.default_rng(seed)
    ends = np.cumsum(random.integers(1, 7, 25)).tolist()
    begins = [0, *ends[:-1]]

    def arrivals() -> Arrivals:
        pauses = random.choice([0.0, 0.01, 0.05, 0.15], 25) + 0.5 * (np.arange(25) % 6 == 5)
        return [
            (pause, range(begin, end)) for pause, begin, end in zip(pauses.tolist(), begins, ends)
        ]

    ranks = trained(arrivals(), arrivals(), arrivals())
    for rank in ranks:
        steps = offsets_of_steps(rank)
        assert [offset for step in steps for offset in step] == list(range(ends[-1]))
        assert steps == offsets_of_steps(ranks[0])
        assert len(rank.records) == len(steps) > ends[-1] // BATCH, "some were closed by time"


def test_a_stop_ends_a_pipeline_that_waits_for_the_others_answer() -> None:
    flag = StopFlag()
    closing = SharedClosing(flag)
    answers: list[int] = []
    pipeline = threading.Thread(target=lambda: answers.append(closing.offer(1, 3)))
    pipeline.start()
    while not closing.offered(1):
        time.sleep(0.001)
    flag.set("a stop")
    pipeline.join(10)
    assert answers == [0]
    assert closing.offered(1) == 0


@pytest.mark.parametrize(
    ("ready", "offered", "answer"),
    [([0, 0], [3, 2], 2), ([0, 1], [3, 0], 0), ([0, 0, 1], [3, 2, 0], 0)],
)
def test_an_offer_is_answered_once(ready: list[int], offered: list[int], answer: int) -> None:
    closing = SharedClosing(StopFlag())
    answers: list[int] = []
    pipeline = threading.Thread(target=lambda: answers.append(closing.offer(5, 3)))
    pipeline.start()
    while not closing.offered(5):
        time.sleep(0.001)
    closing.settle(5, np.zeros(2), np.array([3, 0]))
    closing.settle(4, np.ones(2), np.zeros(2))
    assert closing.offered(5) == 3, "another rank has not offered yet; the batch is another one"
    assert closing.offered(4) == 0
    closing.settle(5, np.array(ready), np.array(offered))
    assert closing.offered(5) == 0, "its answer is on its way"
    closing.settle(5, np.ones(2), np.zeros(2))
    pipeline.join(10)
    assert answers == [answer]
