"""Ways take turns, the warm-up round is not counted, medians are medians."""

from __future__ import annotations

import time
from typing import Callable

import pytest

from benchmarks.timing import alternate, medians, rate_of, seconds_of, typical_mean


def recorder(name: str, calls: list[str], values: list[float]) -> Callable[[], float]:
    remaining = iter(values)

    def way() -> float:
        calls.append(name)
        return next(remaining)

    return way


def test_ways_take_turns_and_the_warm_up_is_left_out() -> None:
    calls: list[str] = []
    ways = {"a": recorder("a", calls, [9, 1, 2, 3]), "b": recorder("b", calls, [8, 4, 5, 6])}
    assert alternate(ways, 3) == {"a": [1, 2, 3], "b": [4, 5, 6]}
    assert calls == ["a", "b"] * 4


def test_without_a_warm_up_every_round_counts() -> None:
    calls: list[str] = []
    measured = alternate({"a": recorder("a", calls, [1, 2])}, 2, warm_up=False)
    assert measured == {"a": [1, 2]}
    assert len(calls) == 2


def test_no_round_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        alternate({}, 0)


def test_the_median_is_deaf_to_one_slow_round() -> None:
    assert medians({"a": [1, 2, 100], "b": [3, 5]}) == {"a": 2, "b": 4}


def test_one_slow_step_counts_for_nothing_and_what_each_round_does_counts() -> None:
    rounds = [[1, 2, 30], [1, 900, 30], [1, 2, 30]]
    assert typical_mean(sum(rounds, []), 3) == 11


def test_a_call_is_timed_and_its_rate_is_amount_over_time() -> None:
    assert 0.02 <= seconds_of(lambda: time.sleep(0.02)) < 1
    assert 10 < rate_of(lambda: time.sleep(0.02), 10) <= 500
