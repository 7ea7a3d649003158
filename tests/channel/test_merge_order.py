"""The merge of the partitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.channel.merge_order import merge_order

Taken = list[tuple[int, int]]
"""(partition, place) in merge order."""


def merged(counts: list[int], exhausted: list[bool], first: int, limit: int = 10**6) -> Taken:
    partition, place = merge_order(counts, exhausted, first, limit)
    assert partition.dtype == place.dtype == np.int64
    return list(zip(partition.tolist(), place.tolist()))


def simulated(counts: list[int], exhausted: list[bool], first: int, limit: int) -> Taken:
    """Plain round robin: skips exhausted partitions, but stops at unfetched rows."""
    taken: Taken = []
    used = [0] * len(counts)
    partition = first
    while len(taken) < limit and used != counts:
        if used[partition] < counts[partition]:
            taken.append((partition, used[partition]))
            used[partition] += 1
        elif not exhausted[partition]:
            break
        partition = (partition + 1) % len(counts)
    return taken


@st.composite
def topics(draw: st.DrawFn) -> tuple[list[int], int]:
    """Rows in each partition, and the first partition of the round-robin order."""
    counts = draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    return counts, draw(st.integers(0, len(counts) - 1))


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
def test_partitions_are_merged_one_row_at_a_time(
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
        # A restarted consumer has only the rows taken and the partition of the last one.
        start = (resumed[-1][0] + 1) % len(counts) if resumed else first
        left = [count - before for count, before in zip(counts, used)]
        limit = data.draw(st.integers(1, 6))
        for partition, place in merged(left, [True] * len(counts), start, limit):
            resumed.append((partition, place + used[partition]))
        used = [sum(part == number for part, _ in resumed) for number in range(len(counts))]
    assert resumed == whole
