"""The window's stripe order, the merge of the partitions and the closing rule."""

from __future__ import annotations

from typing import Optional

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.channel.window import (
    ClosingRule,
    Provenance,
    make_window,
    merge_order,
    window_dtype,
)
from src.process.arrays import Array
from src.rows.criteo import FIELD_SIZE

Taken = list[tuple[int, int]]
"""(partition, place) in merge order."""


def numbered_window(rows: int, num_shards: int) -> Array:
    """A window in whose every field row j of the stream is recognised by j."""
    number = np.arange(rows)
    return make_window(
        np.repeat(number[:, None], FIELD_SIZE, axis=1).astype(np.int32),
        np.repeat(number[:, None], FIELD_SIZE, axis=1).astype(np.float32) / 2,
        (number % 2).astype(np.float32),
        Provenance((number % 3).astype(np.int32), number * 10, number * 10 + 5, number + 10**12),
        num_shards,
        session=2**40,
        dictionaries=2**64 - 1,
        oov=number.astype(np.uint32) * 3,
    )


def merged(counts: list[int], exhausted: list[bool], first: int, limit: int = 10**6) -> Taken:
    partition, place = merge_order(counts, exhausted, first, limit)
    assert partition.dtype == place.dtype == np.int64
    return list(zip(partition.tolist(), place.tolist()))


def simulated(counts: list[int], exhausted: list[bool], first: int, limit: int) -> Taken:
    """Plain round robin: the turn passes over empty partitions, but waits for unfetched rows."""
    taken: Taken = []
    used = [0] * len(counts)
    turn = first
    while len(taken) < limit and used != counts:
        if used[turn] < counts[turn]:
            taken.append((turn, used[turn]))
            used[turn] += 1
        elif not exhausted[turn]:
            break
        turn = (turn + 1) % len(counts)
    return taken


@st.composite
def topics(draw: st.DrawFn) -> tuple[list[int], int]:
    """Rows in each partition, and whose turn it is."""
    counts = draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    return counts, draw(st.integers(0, len(counts) - 1))


# --- layout ---------------------------------------------------------------------------------------


def test_two_shards_take_the_even_and_the_odd_rows() -> None:
    window = numbered_window(6, num_shards=2)
    assert window.dtype == window_dtype(2)
    assert window["id"][:, 0].tolist() == [0, 2, 4, 1, 3, 5]
    assert window["offset"].tolist() == [[5, 15], [25, 35], [45, 55]] * 2
    assert window["start"].tolist() == [[0, 10], [20, 30], [40, 50]] * 2
    assert window["partition"].tolist() == [[0, 1], [2, 0], [1, 2]] * 2


@given(st.integers(1, 5), st.integers(0, 7))
def test_every_shards_slice_is_its_stripe_with_the_provenance_of_all_shards(
    num_shards: int, stripes: int
) -> None:
    window = numbered_window(stripes * num_shards, num_shards)
    for shard, rows in enumerate(np.split(window, num_shards)):
        stream = np.arange(stripes) * num_shards + shard
        assert rows["id"].tolist() == [[j] * FIELD_SIZE for j in stream]
        assert rows["weight"].tolist() == [[j / 2] * FIELD_SIZE for j in stream]
        assert rows["label"].tolist() == [j % 2 for j in stream]
        assert rows["timestamp"].tolist() == [j + 10**12 for j in stream]
        assert rows["oov"].tolist() == [j * 3 for j in stream]
        # Any one rank's provenance, read row by row, is the stream.
        everything = np.arange(stripes * num_shards)
        assert rows["partition"].ravel().tolist() == (everything % 3).tolist()
        assert rows["start"].ravel().tolist() == (everything * 10).tolist()
        assert rows["offset"].ravel().tolist() == (everything * 10 + 5).tolist()
    assert set(window["session"].tolist()) <= {2**40}
    assert set(window["dictionaries"].tolist()) <= {2**64 - 1}


def test_rows_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rows can't be shared evenly by 2 shards"):
        numbered_window(5, num_shards=2)


# --- merge ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "exhausted", "first", "expected"),
    [
        ([2, 2], [True, True], 0, [(0, 0), (1, 0), (0, 1), (1, 1)]),
        ([2, 2], [True, True], 1, [(1, 0), (0, 0), (1, 1), (0, 1)]),
        ([3, 1], [True, True], 0, [(0, 0), (1, 0), (0, 1), (0, 2)]),
        ([3, 1], [True, False], 0, [(0, 0), (1, 0), (0, 1)]),
        ([3, 0], [True, False], 0, [(0, 0)]),
        ([3, 0], [True, False], 1, []),
        ([3, 0], [False, True], 1, [(0, 0), (0, 1), (0, 2)]),
        ([0, 0], [True, True], 0, []),
        ([], [], 0, []),
    ],
)
def test_partitions_take_turns(
    counts: list[int], exhausted: list[bool], first: int, expected: Taken
) -> None:
    assert merged(counts, exhausted, first) == expected


@given(topics(), st.data(), st.integers(0, 40))
def test_the_merge_is_round_robin(
    topic: tuple[list[int], int], data: st.DataObject, limit: int
) -> None:
    counts, first = topic
    exhausted = data.draw(st.lists(st.booleans(), min_size=len(counts), max_size=len(counts)))
    assert merged(counts, exhausted, first, limit) == simulated(counts, exhausted, first, limit)


@given(topics(), st.data())
def test_with_less_fetched_the_merge_is_the_same_only_shorter(
    topic: tuple[list[int], int], data: st.DataObject
) -> None:
    counts, first = topic
    whole = merged(counts, [True] * len(counts), first)
    fetched = [data.draw(st.integers(0, count)) for count in counts]
    exhausted = [
        fetched[number] == count and data.draw(st.booleans()) for number, count in enumerate(counts)
    ]
    part = merged(fetched, exhausted, first)
    assert part == whole[: len(part)]


@given(topics(), st.data())
def test_any_cut_of_the_stream_resumes_in_the_same_order(
    topic: tuple[list[int], int], data: st.DataObject
) -> None:
    counts, first = topic
    whole = merged(counts, [True] * len(counts), first)
    resumed: Taken = []
    used = [0] * len(counts)
    while len(resumed) < len(whole):
        # What a restarted consumer knows: the rows taken and the partition of the last one.
        turn = (resumed[-1][0] + 1) % len(counts) if resumed else first
        left = [count - before for count, before in zip(counts, used)]
        limit = data.draw(st.integers(1, 6))
        for partition, place in merged(left, [True] * len(counts), turn, limit):
            resumed.append((partition, place + used[partition]))
        used = [sum(part == number for part, _ in resumed) for number in range(len(counts))]
    assert resumed == whole


# --- closing --------------------------------------------------------------------------------------


def test_a_window_closes_by_amount_at_once() -> None:
    rule = ClosingRule(window_size=10, num_shards=2, window_seconds=60)
    assert rule.full_rows == 20
    assert rule.rows_to_close(19, now=0.0) == 0
    assert rule.rows_to_close(20, now=0.0) == 20
    assert rule.rows_to_close(57, now=0.0) == 20


def test_a_windows_time_counts_from_its_first_row() -> None:
    rule = ClosingRule(window_size=10, num_shards=1, window_seconds=1)
    assert rule.rows_to_close(0, now=0.0) == 0
    assert rule.rows_to_close(0, now=50.0) == 0
    assert rule.rows_to_close(3, now=60.0) == 0
    assert rule.rows_to_close(4, now=60.9) == 0
    assert rule.rows_to_close(4, now=61.0) == 4
    assert rule.rows_to_close(0, now=61.0) == 0
    assert rule.rows_to_close(1, now=70.0) == 0
    assert rule.rows_to_close(1, now=71.0) == 1


def test_a_window_closed_by_time_is_a_multiple_of_the_shards_and_the_rest_opens_the_next() -> None:
    rule = ClosingRule(window_size=10, num_shards=4, window_seconds=1)
    assert rule.rows_to_close(7, now=0.0) == 0
    assert rule.rows_to_close(7, now=1.0) == 4
    assert rule.rows_to_close(3, now=1.0) == 0
    assert rule.rows_to_close(5, now=1.9) == 0
    assert rule.rows_to_close(5, now=2.0) == 4


def test_windows_that_wait_already_go_as_one_up_to_a_limit() -> None:
    rule = ClosingRule(window_size=10, num_shards=2, window_seconds=60, max_window_size=35)
    assert rule.full_rows == 20
    assert rule.rows_to_close(39, now=0.0) == 20
    assert rule.rows_to_close(40, now=0.0) == 40
    assert rule.rows_to_close(59, now=0.0) == 40
    assert rule.rows_to_close(500, now=0.0) == 60


def test_a_limit_below_a_window_leaves_the_window_as_it_is() -> None:
    rule = ClosingRule(window_size=10, num_shards=1, window_seconds=60, max_window_size=5)
    assert rule.rows_to_close(500, now=0.0) == 10


def test_rows_fewer_than_the_shards_go_as_soon_as_they_can_be_shared() -> None:
    rule = ClosingRule(window_size=10, num_shards=4, window_seconds=1)
    assert rule.rows_to_close(3, now=0.0) == 0
    assert rule.rows_to_close(3, now=9.0) == 0
    assert rule.rows_to_close(4, now=9.1) == 4


@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 0.7)), max_size=30),
)
def test_nothing_that_can_be_shared_waits_for_ever(
    window_size: int, num_shards: int, arrivals: list[tuple[int, float]]
) -> None:
    rule = ClosingRule(window_size, num_shards, window_seconds=1.0)
    now, waiting = 0.0, 0
    shareable_since: Optional[float] = None
    for rows, pause in [*arrivals, (0, 0.7), (0, 0.7), (0, 0.7)]:
        waiting, now = waiting + rows, now + pause
        closed = rule.rows_to_close(waiting, now)
        assert closed % num_shards == 0
        assert closed <= min(waiting, rule.full_rows)
        waiting -= closed
        if closed or waiting < num_shards:
            shareable_since = None
        if waiting >= num_shards and shareable_since is None:
            shareable_since = now
        assert shareable_since is None or now - shareable_since < 1.0
    for _ in range(waiting + 1):
        waiting, now = waiting - rule.rows_to_close(waiting, now), now + 1
    assert waiting < num_shards
