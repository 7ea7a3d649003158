"""RankStream: the batches of a rank, which must not keep the others waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Callable, cast

import pytest

from src.channel.receiver import WindowReceiver
from src.process.arrays import Array
from src.process.stop import StopFlag
from src.stream.position import GapError, Position
from src.trainer.admission import StreamStart
from src.trainer.dataset import StreamingDataset
from src.trainer.step_together import RankStream
from tests.trainer.test_dataset import SESSION, ListedWindows, window

BATCH = 4


class LateWindows(ListedWindows):
    """A receiver of windows that come while it is waited for."""

    def __init__(self, *items: object) -> None:
        super().__init__(list(items))
        self._lock = threading.Lock()

    def send(self, item: Array) -> None:
        with self._lock:
            self._items.append(item)

    def receive(self, timeout_seconds: float, give_up: object) -> Array | None:
        with self._lock:
            received = super().receive(timeout_seconds, give_up)
        if received is None:
            time.sleep(0.005)
        return received


class Rank:
    """A dataset, and what a test does with it."""

    def __init__(self) -> None:
        self.flag = StopFlag()
        self.windows = LateWindows()
        self.attach: Callable[[], WindowReceiver | None] = lambda: cast(
            WindowReceiver, self.windows
        )
        self.read_again: Callable[[], int] | None = None

    def open(self) -> StreamingDataset:
        self.stream = StreamingDataset(
            None,
            StreamStart(Position({0: 0}), SESSION),
            BATCH,
            self.flag,
            attach=lambda: self.attach(),
            read_again=self.read_again,
        )
        return self.stream

    def wait_for_batch(self, number: int, seconds: float, give_up: Callable[[], bool]) -> bool:
        return RankStream(self.stream, self.flag).wait_for_batch(number, seconds, give_up)


@pytest.fixture
def rank() -> Iterator[Rank]:
    rank = Rank()
    yield rank
    rank.flag.set("the test is over")
    rank.stream.close()


def never() -> bool:
    return False


def offsets(batch: tuple[Array, ...]) -> list[int]:
    first: list[int] = batch[0][:, 0].tolist()
    return first


def test_a_batch_whose_rows_are_there_is_there(rank: Rank) -> None:
    rank.windows.send(window([0, 1, 2, 3, 4]))
    stream = rank.open()
    assert rank.wait_for_batch(1, 10, never)
    assert stream.next_batch().position.offsets == {0: 4}
    assert offsets(next(stream)) == [0, 1, 2, 3]


def test_a_batch_whose_rows_do_not_come_is_not_waited_for_any_longer(rank: Rank) -> None:
    rank.windows.send(window([0, 1, 2]))
    rank.open()
    began = time.monotonic()
    assert not rank.wait_for_batch(1, 0.3, never)
    assert 0.3 <= time.monotonic() - began < 1.0


def test_rows_that_came_too_late_are_in_the_batch_when_it_is_asked_for_again(rank: Rank) -> None:
    rank.windows.send(window([0, 1]))
    stream = rank.open()
    assert not rank.wait_for_batch(1, 0.1, never)
    rank.windows.send(window([2, 3, 4, 5]))
    assert rank.wait_for_batch(1, 10, never)
    assert not rank.wait_for_batch(2, 0.1, never)
    rank.windows.send(window([6, 7]))
    assert rank.wait_for_batch(2, 10, never)
    assert [offsets(next(stream)), offsets(next(stream))] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_wait_is_given_up_when_there_is_something_to_say(rank: Rank) -> None:
    rank.open()
    began = time.monotonic()
    assert not rank.wait_for_batch(1, 10, lambda: time.monotonic() > began + 0.2)
    assert time.monotonic() - began < 1.0


def test_what_the_stream_fails_with_is_raised(rank: Rank) -> None:
    rank.windows.send(window([0, 1]))
    rank.windows.send(window([5, 6]))
    stream = rank.open()
    with pytest.raises(GapError, match="partition 0.*offset 2 to 4"):
        rank.wait_for_batch(1, 10, never)
    assert isinstance(stream.failure, GapError)


def test_what_the_pipeline_has_failed_with_is_raised(rank: Rank) -> None:
    rank.windows.send(window([0, 1, 5]))
    stream = rank.open()
    with pytest.raises(GapError):
        next(stream)
    with pytest.raises(GapError):
        rank.wait_for_batch(1, 10, never)


def test_batches_stay_whole_and_in_order_while_a_pipeline_reads_ahead(rank: Rank) -> None:
    stream = rank.open()
    handed_out: list[list[int]] = []
    recorded = []

    def read() -> None:
        for batch in stream:
            handed_out.append(offsets(batch))

    def send() -> None:
        for offset in range(0, 300, 3):
            rank.windows.send(window([offset, offset + 1, offset + 2]))
            time.sleep(0.001)

    sender = threading.Thread(target=send)
    sender.start()
    assert rank.wait_for_batch(1, 10, never), "as a rank does before training begins"
    pipeline = threading.Thread(target=read)
    pipeline.start()
    for number in range(1, 76):
        assert rank.wait_for_batch(number, 10, never)
        recorded.append(stream.next_batch().position.offsets[0])
    sender.join()
    rank.flag.set("all are there")
    pipeline.join()
    assert [offset for batch in handed_out for offset in batch] == list(range(300))
    assert recorded == list(range(4, 301, 4))


def test_a_wait_that_finds_a_gap_goes_on_while_the_rows_are_asked_for(rank: Rank) -> None:
    """It is this thread that hears of the new session, in the round that follows."""
    answer = threading.Event()
    asked: list[int] = []

    def ask() -> int:
        asked.append(SESSION + 1)
        assert answer.wait(20), "nobody has answered"
        return SESSION + 1

    rank.read_again = ask
    rank.windows.send(window([0, 1]))
    rank.windows.send(window([5, 6]))
    stream = rank.open()
    began = time.monotonic()
    assert not rank.wait_for_batch(1, 10, lambda: bool(asked))
    assert time.monotonic() - began < 5
    stream.change_session(SESSION + 1)
    answer.set()
    rank.windows.send(window([0, 1, 2, 3], session=SESSION + 1))
    assert rank.wait_for_batch(1, 10, never)
    assert offsets(next(stream)) == [0, 1, 2, 3]
    assert asked == [SESSION + 1]


def test_a_wait_does_not_wait_for_a_consumer_that_is_away_for_longer(rank: Rank) -> None:
    is_back = threading.Event()

    def attach() -> WindowReceiver | None:
        is_back.wait(20)
        return cast(WindowReceiver, rank.windows)

    rank.attach = attach
    rank.windows.send(window([0, 1, 2, 3]))
    stream = rank.open()
    began = time.monotonic()
    assert not rank.wait_for_batch(1, 0.3, never)
    assert time.monotonic() - began < 2
    is_back.set()
    assert rank.wait_for_batch(1, 10, never)
    assert offsets(next(stream)) == [0, 1, 2, 3]


def test_a_stream_that_was_told_to_stop_has_no_batch(rank: Rank) -> None:
    rank.windows.send(window([0, 1, 2, 3]))
    stream = rank.open()
    rank.flag.set("test")
    assert not rank.wait_for_batch(1, 0.2, never)
    assert stream.failure is None


def test_windows_of_the_session_before_are_dropped_after_a_change(rank: Rank) -> None:
    rank.windows.send(window([0, 1]))
    stream = rank.open()
    assert not rank.wait_for_batch(1, 0.2, never)
    stream.change_session(SESSION + 1)
    rank.windows.send(window([2, 3]))
    assert not rank.wait_for_batch(1, 0.2, never)
    rank.windows.send(window([0, 1, 2, 3], session=SESSION + 1))
    assert rank.wait_for_batch(1, 10, never)
    assert offsets(next(stream)) == [0, 1, 2, 3]
    assert (stream.stale_rows, stream.skipped_rows) == (2, 2)


def test_closing_waits_for_what_is_being_prepared(rank: Rank) -> None:
    stream = rank.open()
    assert not rank.wait_for_batch(1, 0.1, never)
    rank.flag.set("test")
    stream.close()
    assert rank.windows.closed
