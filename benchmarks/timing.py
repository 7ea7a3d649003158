"""Side-by-side timing: all ways take turns in one run, and the median round counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Callable

from tqdm import tqdm

Way = Callable[[], float]
"""Does its work once and returns what was measured, in the unit of the stage."""


def take_turns(
    ways: Mapping[str, Way], repeats: int, title: str = "", warm_up: bool = True
) -> dict[str, list[float]]:
    """Measures all ways A B A B …, so that a change of the machine's speed meets each of them.

    Args:
        ways: What to measure, by name.
        repeats: Rounds that count.
        title: Names the progress bar; without one there is none.
        warm_up: Whether a first round, which compiles and fills caches, is not counted.

    Returns:
        What each way measured, round by round.

    Raises:
        ValueError: There is no round to count.
    """
    if repeats < 1:
        raise ValueError(f"at least one round is needed, not {repeats}")
    measured: dict[str, list[float]] = {name: [] for name in ways}
    rounds = repeats + (1 if warm_up else 0)
    disable = None if title else True  # None: only where a terminal shows it
    with tqdm(total=rounds * len(ways), desc=title, unit="turn", disable=disable) as bar:
        for number in range(rounds):
            for name, way in ways.items():
                value = way()
                if number >= rounds - repeats:
                    measured[name].append(value)
                bar.update()
    return measured


def medians(measured: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of what each way measured."""
    return {name: float(statistics.median(values)) for name, values in measured.items()}


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes, seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rate_of(call: Callable[[], object], amount: float) -> float:
    """How much a call gets done a second when it does ``amount`` in all."""
    return amount / seconds_of(call)
