"""The guard of a feed against a plain model of it, and ranges of offsets against a set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import consumer
from src.dead_letters.bad_rows import OffsetRanges
from src.rows.bad_rows import BadRowGuard, BrokenFeedError


def too_many_at(good: list[bool], max_fraction: float, rows: int) -> int | None:
    """The first row at which too many of the last rows are bad, counted one by one."""
    for place in range(len(good)):
        last = good[max(place + 1 - rows, 0) : place + 1]
        if last.count(False) / rows > max_fraction:
            return place
    return None


@given(
    st.lists(st.lists(st.booleans(), max_size=30), max_size=8),
    st.integers(0, 12),
    st.integers(1, 12),
)
def test_guard_raises_in_the_very_piece_of_the_stream_where_the_model_does(
    pieces: list[list[bool]], allowed: int, rows: int
) -> None:
    guard, seen = BadRowGuard(allowed / rows, rows), list[bool]()
    for piece in pieces:
        seen += piece
        if too_many_at(seen, allowed / rows, rows) is not None:
            with pytest.raises(BrokenFeedError):
                guard.observe(np.array(piece, dtype=bool))
            return
        guard.observe(np.array(piece, dtype=bool))


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 12), st.integers(1, 12))
def test_guard_says_how_many_were_bad_at_the_first_row_that_was_too_much(
    good: list[bool], allowed: int, rows: int
) -> None:
    place = too_many_at(good, allowed / rows, rows)
    if place is None:
        BadRowGuard(allowed / rows, rows).observe(np.array(good, dtype=bool))
        return
    with pytest.raises(BrokenFeedError, match=rf": {allowed + 1} of the last \d+ rows are bad"):
        BadRowGuard(allowed / rows, rows).observe(np.array(good, dtype=bool))


@pytest.mark.parametrize("allowed", [3, 7, 29, 57, 500, 700, 2900])
def test_a_share_written_in_decimals_allows_exactly_its_rows(allowed: int) -> None:
    share = float(f"{allowed / 10_000:.4f}")
    bad_rows = np.zeros(allowed, dtype=bool)
    guard = BadRowGuard(share)
    guard.observe(bad_rows)
    guard.observe(np.ones(20_000, dtype=bool))
    guard.observe(bad_rows)
    with pytest.raises(BrokenFeedError, match=f" {allowed + 1:d} of the last 10,000"):
        guard.observe(np.zeros(1, dtype=bool))


def test_with_fewer_rows_seen_the_same_number_is_too_many_and_the_flag_is_named() -> None:
    guard = BadRowGuard(0.05)
    guard.observe(np.zeros(500, dtype=bool))
    with pytest.raises(BrokenFeedError) as caught:
        guard.observe(np.zeros(1, dtype=bool))
    assert "501 of the last 501 rows" in str(caught.value)
    assert "0.05 of 10,000 rows (--max_bad_fraction)" in str(caught.value)


def test_a_share_of_one_never_stops_and_a_share_of_none_stops_at_the_first_bad_row() -> None:
    BadRowGuard(1.0).observe(np.zeros(30_000, dtype=bool))
    guard = BadRowGuard(0.0)
    guard.observe(np.ones(100, dtype=bool))
    with pytest.raises(BrokenFeedError, match="1 of the last 101 rows"):
        guard.observe(np.zeros(1, dtype=bool))


def test_reset_forgets_the_bad_rows_seen() -> None:
    guard = BadRowGuard(0.5, rows=4)
    for _ in range(3):
        guard.reset()
        guard.observe(np.array([False, True, False]))
    with pytest.raises(BrokenFeedError):
        guard.observe(np.array([False]))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12))
def test_ranges_hold_what_a_set_would_and_neighbours_become_one(
    added: list[tuple[int, int]],
) -> None:
    ranges, model = OffsetRanges(), set[int]()
    for begin, end in added:
        ranges.add(begin, end)
        model |= set(range(begin, end))
    assert [offset for offset in range(45) if offset in ranges] == sorted(model)
    starts = [offset for offset in model if offset - 1 not in model]
    assert [begin for begin, _ in ranges.ranges] == sorted(starts)


@pytest.mark.parametrize("value", ["-0.01", "1.01", "nan", "many"])
def test_a_share_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        consumer.parse_args([f"--max_bad_fraction={value}"])
    assert caught.value.code == 2


def test_default_share_is_five_in_a_hundred() -> None:
    assert consumer.parse_args([]).max_bad_fraction == 0.05
