"""Bad rows among the rows of windows: logged, counted and kept once, guarded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import pytest

from src.cluster.broker import SourceError
from src.consumer.bad_row_keeper import BadRowKeeper
from src.consumer.counts import ConsumerCounts
from src.consumer.window_assembler import WindowAssembler
from src.dead_letters.dead_letters import DeadLetter
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.rows.bad_rows import BadRowGuard, BrokenFeedError
from src.stream.position import Commit, Position
from src.stream.row_source import RowSource
from tests.consumer.rows_in_memory import (
    BAD,
    HeldInMemory,
    NumberFeatures,
    assembler,
    line,
    numbers,
)


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


def test_many_bad_rows_are_summed_up_by_column(caplog: pytest.LogCaptureFixture) -> None:
    made, counts = assembler([[BAD] * 25])
    with caplog.at_level(logging.WARNING):
        made.take(100)
    assert counts.bad_rows == 25
    assert "and 15 more bad rows, by column: {'row': 15}" in caplog.text


def test_bad_rows_are_handed_over_as_they_came_with_the_window_that_covers_them() -> None:
    kept: list[DeadLetter] = []
    made, _ = assembler([[line(0), BAD, line(1), b"2" + line(2)[1:]]], kept=kept)
    assert numbers(made.take(1)) == [0]
    assert kept == []
    assert numbers(made.take(3)) == [1]
    assert [(dead_letter.origin, dead_letter.value) for dead_letter in kept] == [
        ("clicks:0:1", BAD),
        ("clicks:0:3", b"2" + line(2)[1:]),
    ]
    assert (kept[1].column, kept[1].reason) == ("label", "not 0 or 1: b'2'")
    assert kept[1].time.tzinfo is not None


def test_bad_rows_that_cannot_be_kept_stay_held_and_no_window_covers_them() -> None:
    kept: list[DeadLetter] = []
    counts = ConsumerCounts()

    def fail_once(dead_letters: Sequence[DeadLetter]) -> None:
        kept.extend(dead_letters)
        if len(kept) == 1:
            raise SourceError("away")

    source = cast(RowSource, HeldInMemory([[BAD, line(0)]]))
    features = cast(FeatureBuilder, NumberFeatures())
    keeper = BadRowKeeper(fail_once, BadRowGuard(1.0), counts)
    made = WindowAssembler(source, features, 1, "tsv", "clicks", keeper)
    start = Commit(Position({0: 0}), session=9)
    made.begin(start)
    with pytest.raises(SourceError):
        made.take(5)
    assert counts.bad_rows == 0
    made.begin(start)
    assert numbers(made.take(5)) == [0]
    assert [dead_letter.offset for dead_letter in kept] == [0, 0]
    assert counts.bad_rows == 1


def test_bad_rows_met_again_after_a_rewind_are_kept_named_and_counted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept: list[DeadLetter] = []
    made, counts = assembler([[BAD, line(0), BAD, BAD, line(1)], [BAD]], kept=kept)
    with caplog.at_level(logging.WARNING):
        made.take(1)
        for offset in (2, 0, 3):
            made.begin(Commit(Position({0: offset, 1: 0}), session=10))
            made.take(10)
    assert [dead_letter.origin for dead_letter in kept] == [
        "clicks:0:0",
        "clicks:0:2",
        "clicks:0:3",
        "clicks:1:0",
    ]
    assert counts.bad_rows == 4
    assert caplog.text.count("bad row: partition") == 4


def test_bad_rows_before_the_first_start_are_kept_when_a_commit_leads_back_to_them() -> None:
    kept: list[DeadLetter] = []
    made, counts = assembler([[BAD, line(0), BAD, line(1)]], position=Position({0: 2}), kept=kept)
    made.take(10)
    made.begin(Commit(Position({0: 0}), session=10))
    made.take(10)
    assert [dead_letter.offset for dead_letter in kept] == [2, 0]
    assert counts.bad_rows == 2


def test_guard_sees_good_and_bad_rows_in_the_order_of_the_stream() -> None:
    class Guard(BadRowGuard):
        def __init__(self) -> None:
            super().__init__(1.0)
            self.seen: list[bool] = []

        def observe(self, good: Array) -> None:
            self.seen += good.tolist()

    guard = Guard()
    partitions = [[line(0), BAD, line(2), line(4), BAD], [BAD, line(1), line(3), BAD, BAD]]
    made, _ = assembler(partitions, guard=guard)
    assert numbers(made.take(5)) == [0, 1, 2]
    assert guard.seen == [True, False, True, False, True]
    assert numbers(made.take(10)) == [3, 4]
    assert guard.seen[5:] == [True, True, False, False, False]


def test_a_broken_feed_stops_it_after_its_rows_are_kept_and_a_new_session_starts_afresh() -> None:
    kept: list[DeadLetter] = []
    made, counts = assembler([[line(0), BAD, BAD, BAD, line(1)]], kept=kept, guard=guard_of(2, 10))
    with pytest.raises(BrokenFeedError, match="3 of the last 4 rows are bad"):
        made.take(10)
    assert counts.bad_rows == len(kept) == 3
    made.begin(Commit(Position({0: 2}), session=10))
    assert numbers(made.take(10)) == [1]


def guard_of(allowed: int, rows: int) -> BadRowGuard:
    """A guard that lets so many bad rows pass among the last rows."""
    return BadRowGuard(allowed / rows, rows)
