"""Draws how far each run is ahead of the first, at equal rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.report_page.pictures import (
    COLORS,
    MAX_POINTS,
    SCOPES,
    curve_label,
    curve_style,
    dress_axis,
    show_legend,
)
from examples.report_page.runs import Run, value_of
from src.process.arrays import Array

QUANTITIES = (
    ("log_loss", "log loss − that of the first run\n(below 0: ahead of it)"),
    ("auc", "AUC − that of the first run\n(above 0: ahead of it)"),
)
EARLY = 0.1
"""The share of the rows whose differences may leave the picture. The earliest are so large that the
later ones would look flat beside them."""


def draw_differences(runs: Sequence[Run]) -> Figure | None:
    """Log loss and AUC of each run minus those of the first; None where no rows are shared."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for axis, (key, meaning) in zip(axes, QUANTITIES):
        _draw_quantity(axis, runs, key)
        dress_axis(axis, "rows trained")
        axis.set_ylabel(meaning)
        axis.axhline(0, color="#888888", linewidth=1, zorder=0)
    if show_legend(figure):
        return figure
    plt.close(figure)
    return None


def _draw_quantity(axis: Axes, runs: Sequence[Run], key: str) -> None:
    late = []
    for number, run in enumerate(runs[1:], start=1):
        for place, (scope, label) in enumerate(SCOPES.items()):
            rows, ahead = difference(runs[0], run, scope, key)
            if not rows.size:
                continue
            late.append(ahead[rows >= EARLY * rows[-1]])
            style = curve_style(COLORS[number % len(COLORS)], place, rows.size)
            axis.plot(rows, ahead, label=curve_label(run.name, label), **style)
    if late:
        low, high = min(0.0, *map(np.min, late)), max(0.0, *map(np.max, late))
        margin = 0.08 * (high - low) or 1e-4
        axis.set_ylim(low - margin, high + margin)


def difference(first: Run, other: Run, scope: str, key: str) -> tuple[Array, Array]:
    """A score of a run minus that of the first run.

    Returns:
        ``rows`` and the differences, float64[n] each, at the rows at which one of the two reported,
        interpolated in the other. Both are empty where the runs share no rows.
    """
    one, two = _by_rows(first, scope, key), _by_rows(other, scope, key)
    if not one.size or not two.size:
        return np.zeros(0), np.zeros(0)
    rows = np.union1d(one[0], two[0])
    begin, end = max(one[0, 0], two[0, 0]), min(one[0, -1], two[0, -1])
    rows = rows[(rows >= begin) & (rows <= end)]
    every = -(-rows.size // MAX_POINTS) or 1
    rows = rows[(rows.size - 1) % every :: every]
    return rows, np.interp(rows, *two) - np.interp(rows, *one)


def _by_rows(run: Run, scope: str, key: str) -> Array:
    """Rows and values of the reports that have one, float64[2, reports], rows growing.

    A trainer whose checkpoint held no metrics counts rows from 0 again. Earlier reports at the same
    rows or more are then left out.
    """
    value = value_of(scope, key)
    kept: list[tuple[int, float]] = []
    for line in run.lines:
        found = value(line)
        while kept and kept[-1][0] >= line["rows"]:
            kept.pop()
        if found is not None:
            kept.append((line["rows"], found))
    return np.array(kept, dtype=np.float64).reshape(-1, 2).T
