"""The window assembler on rows held in memory: merge, provenance, bad rows, positions."""

from __future__ import annotations

import logging
from typing import Optional, cast

import numpy as np
import pytest

from src.arrays import Array
from src.consume import ConsumerCounts, FeatureBuilder, SessionFollower, WindowAssembler
from src.criteo import FIELD_SIZE, ParsedRows
from src.kafka_source import HeldRows, RowSource
from src.position import Commit, Position, PositionTracker

BAD = b"no row"


def line(number: int) -> bytes:
    """A row that tells its number in I1."""
    return b"\t".join([b"1", str(number).encode(), *[b""] * 38])


class NumberFeatures:
    """Features that show I1, so that a test sees which row went where."""

    def build(self, rows: ParsedRows) -> tuple[Array, Array]:
        numbers = rows.dense["I1"].to_numpy().astype(np.int32)
        ids = np.repeat(numbers[:, None], FIELD_SIZE, axis=1)
        return ids, ids.astype(np.float32)

    def oov(self, ids: Array) -> Array:
        return ids[:, 0].astype(np.uint32)


class HeldInMemory:
    """Partitions whose messages are known beforehand; offset = place in the list."""

    def __init__(self, partitions: list[list[bytes]]) -> None:
        self._partitions = partitions
        self._next = [0] * len(partitions)

    def seek(self, position: Position) -> None:
        self._next = [position.offsets[part] for part in range(len(self._partitions))]

    def held(self, limit_per_partition: int) -> list[HeldRows]:
        held = []
        for part, messages in enumerate(self._partitions):
            begin = self._next[part]
            values: list[Optional[bytes]] = list(messages[begin : begin + limit_per_partition])
            offset = np.arange(begin, begin + len(values))
            done = begin + len(values) == len(messages)
            held.append(HeldRows(part, values, offset, offset * 10, done))
        return held

    def drop(self, partition: int, rows: int) -> None:
        self._next[partition] += rows


def assembler(
    partitions: list[list[bytes]], num_shards: int = 1, position: Optional[Position] = None
) -> tuple[WindowAssembler, ConsumerCounts]:
    counts = ConsumerCounts()
    source = cast(RowSource, HeldInMemory(partitions))
    features = cast(FeatureBuilder, NumberFeatures())
    made = WindowAssembler(source, features, 3, num_shards, "tsv", counts)
    start = position or Position({part: 0 for part in range(len(partitions))})
    made.begin(Commit(start, session=9))
    return made, counts


def numbers(window: Optional[Array]) -> list[int]:
    assert window is not None
    return cast(list[int], window["id"][:, 0].tolist())


def test_partitions_are_merged_one_row_each_in_turn() -> None:
    made, _ = assembler([[line(0), line(2), line(4)], [line(1), line(3)]])
    assert numbers(made.take(4)) == [0, 1, 2, 3]
    assert numbers(made.take(4)) == [4]
    assert made.take(4) is None


def test_every_row_carries_label_session_time_and_provenance() -> None:
    made, _ = assembler([[line(0), line(2)], [line(1), line(3)]])
    window = made.take(4)
    assert window is not None
    assert window["partition"][:, 0].tolist() == [0, 1, 0, 1]
    assert window["offset"][:, 0].tolist() == [0, 0, 1, 1]
    assert window["timestamp"].tolist() == [0, 0, 10, 10]
    assert window["oov"].tolist() == numbers(window)
    assert set(window["session"]) == {9}
    assert set(window["dictionaries"]) == {3}
    assert window["label"].tolist() == [1.0] * 4


def test_a_bad_row_is_named_counted_and_covered_by_the_next_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, counts = assembler([[line(0), BAD, BAD, line(1)]])
    with caplog.at_level(logging.WARNING):
        window = made.take(10)
    assert numbers(window) == [0, 1]
    assert window is not None
    assert window["start"][:, 0].tolist() == [0, 1]
    assert window["offset"][:, 0].tolist() == [0, 3]
    assert counts.bad_rows == 2
    assert "partition 0, offset 1" in caplog.text


def test_bad_rows_at_the_end_of_a_window_are_covered_by_the_next_window() -> None:
    made, counts = assembler([[line(0), BAD, line(1)]])
    made.take(2)
    window = made.take(2)
    assert window is not None
    assert (window["start"][0, 0], window["offset"][0, 0]) == (1, 2)
    assert counts.bad_rows == 1


def test_only_bad_rows_make_no_window_and_are_let_go() -> None:
    made, counts = assembler([[BAD, BAD]])
    assert made.take(5) is None
    assert counts.bad_rows == 2
    assert made.take(5) is None
    assert counts.bad_rows == 2


def test_many_bad_rows_are_summed_up_by_column(caplog: pytest.LogCaptureFixture) -> None:
    made, counts = assembler([[BAD] * 25])
    with caplog.at_level(logging.WARNING):
        made.take(100)
    assert counts.bad_rows == 25
    assert "and 15 more bad rows, by column: {'row': 15}" in caplog.text


@pytest.mark.parametrize("seed", range(10))
def test_from_any_position_the_same_rows_follow_whatever_the_window_sizes(seed: int) -> None:
    """The order depends on the position alone, also with bad rows and uneven partitions."""
    random = np.random.default_rng(seed)
    partitions = [
        [BAD if random.random() < 0.2 else line(part * 1000 + row) for row in range(length)]
        for part, length in enumerate(random.integers(0, 30, size=3))
    ]
    whole, _ = assembler(partitions)
    reference = numbers(whole.take(1000))
    position = Position({0: 0, 1: 0, 2: 0})
    seen: list[int] = []
    while len(seen) < len(reference):
        made, _ = assembler(partitions, position=position)
        window = made.take(int(random.integers(1, 8)))
        if window is None:
            window = made.take(1000)
        assert window is not None
        tracker = PositionTracker(position)
        assert tracker.admit(window["partition"], window["start"], window["offset"]).all()
        position = tracker.position
        seen += numbers(window)
    assert seen == reference


def test_windows_are_cut_to_a_multiple_of_the_shards() -> None:
    made, _ = assembler([[line(row) for row in range(5)]], num_shards=2)
    assert numbers(made.take(5)) == [0, 2, 1, 3]
    assert made.take(5) is None


class CommitsInMemory:
    """What the group has committed, as told."""

    def __init__(self) -> None:
        self.commit_now: Optional[Commit] = None
        self.looks = 0

    def committed(self) -> Optional[Commit]:
        self.looks += 1
        return self.commit_now


def test_a_new_session_is_news_once_and_looked_for_at_most_once_a_second() -> None:
    time = [0.0]
    commits = CommitsInMemory()
    follower = SessionFollower(cast(RowSource, commits), session=0, clock=lambda: time[0])
    commits.commit_now = Commit(Position({0: 5}), session=4)
    assert not follower.has_news()
    assert commits.looks == 0
    time[0] = 1.0
    assert follower.has_news()
    assert follower.has_news()
    assert commits.looks == 1
    assert follower.news().position.offsets == {0: 5}
    time[0] = 2.0
    assert not follower.has_news()
