"""Draws predicted probability against click rate, by decile of the score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.report_page.pictures import COLORS, dress_axis, show_legend
from examples.report_page.runs import Line, Run


def draw_reliability(runs: Sequence[Run]) -> Figure | None:
    """The newest reliability table of each run; None where no run has one.

    The right half shows click rate minus predicted probability. A point's bar is two standard
    errors long on each side: a calibrated model's bars mostly reach 0.
    """
    known = [(number, run.name, _newest(run)) for number, run in enumerate(runs)]
    if not any(groups for _, _, groups in known):
        return None
    figure, (rates, errors) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for number, name, groups in known:
        if groups:
            label = name if len(runs) > 1 else None
            _draw_groups(groups, rates, errors, COLORS[number % len(COLORS)], label)
    _dress(rates, errors)
    show_legend(figure)
    return figure


def _newest(run: Run) -> list[Line]:
    """The groups in the newest report that has some; older trainers wrote none."""
    return next(
        (line["reliability"] for line in reversed(run.lines) if line.get("reliability")), []
    )


def _draw_groups(
    groups: list[Line], rates: Axes, errors: Axes, color: str, label: str | None
) -> None:
    predicted = [group["predicted"] for group in groups]
    clicked = [group["click_rate"] for group in groups]
    above = [rate - mean for rate, mean in zip(clicked, predicted)]
    chance = [2 * math.sqrt(p * (1 - p) / group["rows"]) for p, group in zip(predicted, groups)]
    style: dict[str, Any] = {"color": color, "linewidth": 1.6, "marker": "o", "markersize": 4}
    rates.plot(predicted, clicked, label=label, **style)
    errors.errorbar(predicted, above, yerr=chance, capsize=2, elinewidth=0.8, **style)


def _dress(rates: Axes, errors: Axes) -> None:
    for axis in (rates, errors):
        dress_axis(axis, "mean predicted probability of a decile")
    rates.axline((0, 0), slope=1, color="#888888", linewidth=1, zorder=0)
    rates.set_ylabel("click rate")
    errors.axhline(0, color="#888888", linewidth=1, zorder=0)
    errors.set_ylabel("click rate − predicted")
