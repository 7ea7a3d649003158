"""Each row is let through once and in order; positions and commits survive their text form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.process.arrays import Array
from src.stream.position import (
    Commit,
    GapError,
    Position,
    PositionTracker,
    RowRange,
    advance,
    row_ranges,
)

positions = st.builds(
    lambda offsets, last, length: Position(
        offsets, last, {number: offset + length for number, offset in offsets.items() if length}
    ),
    st.dictionaries(st.integers(0, 99), st.integers(0, 2**62), max_size=4),
    st.integers(-1, 99),
    st.integers(0, 2**40),
)


def admit(
    tracker: PositionTracker,
    rows: list[tuple[int, int]],
    shards: int = 1,
    start: list[int] | None = None,
) -> list[bool]:
    """Offers (partition, offset) rows in stream order, in stripes of ``shards``."""
    partition = np.array([row[0] for row in rows], dtype=np.int32).reshape(-1, shards)
    offset = np.array([row[1] for row in rows], dtype=np.int64).reshape(-1, shards)
    starts = offset if start is None else np.array(start, dtype=np.int64).reshape(-1, shards)
    taken: list[bool] = tracker.admit(partition, starts, offset).tolist()
    return taken


def test_rows_that_follow_are_taken_and_move_the_position() -> None:
    tracker = PositionTracker(Position({0: 5, 1: 7}, 1))
    assert admit(tracker, [(0, 5), (1, 7), (0, 6)]) == [True] * 3
    assert tracker.position == Position({0: 7, 1: 8}, 0)
    assert tracker.skipped_rows == 0


def test_rows_taken_before_are_skipped_and_counted() -> None:
    tracker = PositionTracker(Position({0: 5, 1: 7}, 1))
    assert admit(tracker, [(0, 3), (1, 6), (0, 4), (1, 7), (0, 5)]) == [False] * 3 + [True] * 2
    assert tracker.skipped_rows == 3
    assert admit(tracker, [(1, 7), (0, 5)]) == [False] * 2
    assert tracker.skipped_rows == 5
    assert tracker.position == Position({0: 6, 1: 8}, 0)


def test_no_rows_change_nothing() -> None:
    tracker = PositionTracker(Position({0: 5}, 0))
    assert admit(tracker, [], shards=2) == []
    assert tracker.position == Position({0: 5}, 0)


def test_a_partition_unknown_so_far_begins_at_its_first_offset() -> None:
    tracker = PositionTracker(Position({}))
    assert admit(tracker, [(3, 0), (3, 1)]) == [True, True]
    assert tracker.position == Position({3: 2}, 3)
    with pytest.raises(GapError, match="partition 4: rows are missing from offset 0 to 8"):
        admit(tracker, [(4, 9)])


def test_offsets_of_bad_rows_are_covered_by_the_start_of_the_row_after_them() -> None:
    tracker = PositionTracker(Position({0: 5}))
    assert admit(tracker, [(0, 7), (0, 12)], start=[5, 8]) == [True, True]
    assert tracker.position.offsets == {0: 13}


def test_a_row_that_also_covers_offsets_already_passed_is_taken() -> None:
    tracker = PositionTracker(Position({0: 6}))
    assert admit(tracker, [(0, 7)], start=[4]) == [True]


@pytest.mark.parametrize(
    ("rows", "shards", "message"),
    [
        ([(1, 7), (0, 6)], 1, "partition 0: rows are missing from offset 5 to 5$"),
        ([(0, 5), (1, 7), (0, 9)], 1, "partition 0: rows are missing from offset 6 to 8$"),
        ([(0, 4), (0, 6)], 1, "partition 0: rows are missing from offset 5 to 5$"),
        ([(0, 6), (0, 5)], 1, r"partition 0: offsets are out of order: \[6, 5\]"),
        ([(0, 5), (0, 5)], 1, r"partition 0: offsets are out of order: \[5, 5\]"),
        ([(0, 5), (1, 6)], 2, r"part of a stripe .* partitions \[0, 1\], offsets \[5, 6\]"),
        ([(1, 7), (1, 8), (0, 4), (0, 5)], 2, r"part of a stripe .* offsets \[4, 5\]"),
    ],
)
def test_an_error_names_the_rows_and_leaves_the_state_as_it_was(
    rows: list[tuple[int, int]], shards: int, message: str
) -> None:
    position = Position({0: 5, 1: 7}, 1)
    tracker = PositionTracker(position)
    with pytest.raises(GapError, match=message):
        admit(tracker, rows, shards)
    assert tracker.position == position
    assert tracker.skipped_rows == 0
    assert admit(tracker, [(0, 5), (1, 7)], shards=2) == [True]


def test_a_position_handed_out_stays_as_it_is() -> None:
    tracker = PositionTracker(Position({0: 0}))
    before = tracker.position
    admit(tracker, [(0, 0)])
    assert before == Position({0: 0})


@given(
    st.lists(st.integers(0, 2), max_size=30),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=12),
)
def test_however_the_stream_is_repeated_each_row_is_taken_once(
    partitions: list[int], shards: int, deliveries: list[tuple[int, int]]
) -> None:
    partitions = partitions[: len(partitions) // shards * shards]
    stream = [(part, partitions[:place].count(part)) for place, part in enumerate(partitions)]
    stripes = len(stream) // shards
    tracker = PositionTracker(Position({0: 0, 1: 0, 2: 0}))
    taken: list[tuple[int, int]] = []
    for begin, length in [*deliveries, (0, stripes)]:
        # A restarted consumer goes back, never ahead.
        begin = min(begin, len(taken) // shards)
        rows = stream[begin * shards : (begin + length) * shards]
        new = np.repeat(np.array(admit(tracker, rows, shards), dtype=bool), shards)
        taken += [row for row, is_new in zip(rows, new) if is_new]
    assert taken == stream
    assert tracker.position == advance(Position({0: 0, 1: 0, 2: 0}), *columns(stream))


def columns(rows: list[tuple[int, int]]) -> tuple[Array, Array]:
    return (
        np.array([row[0] for row in rows], dtype=np.int32),
        np.array([row[1] for row in rows], dtype=np.int64),
    )


def test_advance_goes_after_the_last_row_of_each_partition() -> None:
    start = Position({0: 3, 1: 4, 2: 9}, 2)
    assert advance(start, *columns([(1, 4), (0, 3), (1, 8)])) == Position({0: 4, 1: 9, 2: 9}, 1)
    assert advance(start, *columns([])) == start
    assert start == Position({0: 3, 1: 4, 2: 9}, 2)


def test_row_ranges_say_first_last_and_count_of_each_partition() -> None:
    ranges = row_ranges(*columns([(1, 4), (0, 3), (1, 8), (1, 9)]))
    assert ranges == [RowRange(0, 3, 3, 1), RowRange(1, 4, 9, 3)]
    assert row_ranges(*columns([])) == []


@given(positions)
def test_a_position_survives_json(position: Position) -> None:
    text = position.to_json()
    assert "\n" not in text
    assert Position.from_json(text) == position


def test_a_position_of_numpy_rows_survives_json() -> None:
    position = advance(Position({}), *columns([(0, 2**40)]))
    assert Position.from_json(position.to_json()) == Position({0: 2**40 + 1}, 0)
    assert str(Position({1: 5, 0: 4})) == "0:4, 1:5"


@given(positions, st.integers(0, 2**63 - 1), st.text("0123456789abcdef-"))
def test_a_commit_survives_its_metadata(position: Position, session: int, topic_id: str) -> None:
    commit = Commit(position, session, 2, topic_id)
    metadata = {number: commit.metadata(number) for number in position.offsets}
    expected = commit if metadata else Commit(Position({}), 0)
    assert Commit.from_offsets(position.reached, metadata) == expected


def test_a_foreign_commit_for_one_partition_alone_is_taken_as_it_is() -> None:
    commit = Commit(Position({0: 5, 1: 7}, 1, {0: 9, 1: 8}), 77)
    metadata = {0: commit.metadata(0), 1: ""}
    read = Commit.from_offsets({0: 9, 1: 3}, metadata)
    assert read == Commit(Position({0: 5, 1: 3}, 1, {0: 9}), 77)


def test_a_stretch_without_rows_is_passed_over_by_those_that_have_reached_it() -> None:
    position = Position({0: 5, 1: 7}, 1)
    assert position.with_empty({0: (6, 9)}) == position
    assert position.with_empty({0: (3, 5), 2: (0, 4)}) == position
    reached = position.with_empty({0: (5, 9), 1: (2, 8)})
    assert reached == Position({0: 5, 1: 7}, 1, {0: 9, 1: 8})
    assert reached.reached == {0: 9, 1: 8}
    assert str(reached) == "0:9, 1:8"
    assert reached.with_empty({0: (5, 7)}) == reached
    assert reached.stretches == {0: (5, 9), 1: (7, 8)}
    assert position.with_empty(reached.stretches) == reached
    assert advance(reached, *columns([(0, 9)])) == Position({0: 10, 1: 7}, 0, {1: 8})


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        "",
        "hello",
        "42",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"session": null}',
        '{"session": [1]}',
        '{"session": NaN}',
        '{"session": Infinity}',
        '{"session": "x"}',
        '{"session": 5, "last_partition": "x"}',
        "[" * 100_000,
        "\x00",
    ],
)
def test_a_foreign_commit_counts_as_session_0(metadata: str | None) -> None:
    commit = Commit.from_offsets({0: 7}, {0: metadata})
    assert commit == Commit(Position({0: 7}, -1), 0)
