"""When a window closes, and with how many rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from src.channel.closing_rule import ClosingRule


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
    shareable_since: float | None = None
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
