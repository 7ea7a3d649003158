"""Side-by-side timing: all ways alternate in one run, and the median round counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Callable

import numpy as np
from tqdm import tqdm

Way = Callable[[], float]
"""Does its work once and returns the measurement, in the unit of the stage."""


def alternate(
    ways: Mapping[str, Way], repeats: int, title: str = "", warm_up: bool = True
) -> dict[str, list[float]]:
    """Measures all ways A B A B …, so that a change of the machine's speed affects each of them.

    Args:
        ways: The ways to measure, by name.
        repeats: Rounds that count.
        title: Names the progress bar; without one there is none.
        warm_up: Whether to run an uncounted first round, which compiles and fills caches.

    Returns:
        The measurements of each way, round by round.

    Raises:
        ValueError: There is no round to count.
    """
    if repeats < 1:
        raise ValueError(f"at least one round is needed, not {repeats}")
    measured: dict[str, list[float]] = {name: [] for name in ways}
    rounds = repeats + (1 if warm_up else 0)
    disable = None if title else True  # None: only where a terminal shows it
    with tqdm(total=rounds * len(ways), desc=title, unit="way", disable=disable) as bar:
        for number in range(rounds):
            for name, way in ways.items():
                value = way()
                if number >= rounds - repeats:
                    measured[name].append(value)
                bar.update()
    return measured


def medians(measured: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median measurement of each way."""
    return {name: float(statistics.median(values)) for name, values in measured.items()}


def typical_mean(values: Sequence[float], size: int) -> float:
    """The mean of a round in which each place holds its median over all rounds.

    Args:
        values: Round after round.
        size: Values in a round.
    """
    return float(np.median(np.reshape(values, (-1, size)), axis=0).mean())


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes, seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rate_of(call: Callable[[], object], amount: float) -> float:
    """Amount per second of a call that does ``amount`` in all."""
    return amount / seconds_of(call)
