"""Draws the quantities of runs, over rows and over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.report_page.runs import Line, Run, value_of
from src.rows.criteo import CATEGORICAL_COLUMNS

MAX_POINTS = 2000  # more are not seen on a screen
COLORS = ("#0b62a4", "#d1495b", "#2e8b57", "#8e5ea2", "#c77d0a", "#444444")


@dataclass(frozen=True)
class Panel:
    """A quantity to draw.

    Attributes:
        name: The picture's name.
        title: The picture's title.
        unit: Unit of the y axis.
        curves: Reads each curve's value from a report, by label; "" for a single curve.
        reference: A level drawn for comparison.
        from_zero: Whether the y axis begins at 0.
    """

    name: str
    title: str
    unit: str
    curves: dict[str, Callable[[Line], float | None]]
    reference: float | None = None
    from_zero: bool = False


SCOPES = {"window": "newest rows", "life": "all rows"}


def _scopes(key: str) -> dict[str, Callable[[Line], float | None]]:
    return {label: value_of(scope, key) for scope, label in SCOPES.items()}


PANELS = (
    Panel("auc", "AUC", "", _scopes("auc")),
    Panel("log_loss", "Log loss", "nats", _scopes("log_loss")),
    Panel(
        "normalised_entropy",
        "Normalised entropy: log loss over that of the click rate alone",
        "",
        _scopes("normalised_entropy"),
        reference=1.0,
    ),
    Panel(
        "calibration",
        "Calibration: predicted clicks over clicks",
        "",
        _scopes("calibration"),
        reference=1.0,
    ),
    Panel("loss", "Losses", "", {"wide": value_of("wide_loss"), "deep": value_of("deep_loss")}),
    Panel("throughput", "Throughput", "rows/s", {"": value_of("rows_per_second")}, from_zero=True),
    Panel(
        "step_time",
        "Time of a step",
        "ms",
        {
            "working": value_of("step_seconds", factor=1e3),
            "waiting": value_of("wait_seconds", factor=1e3),
        },
        from_zero=True,
    ),
    Panel(
        "lag_rows", "Rows not yet trained on", "rows", {"": value_of("lag_rows")}, from_zero=True
    ),
    Panel(
        "lag_seconds", "Age of the newest row", "s", {"": value_of("lag_seconds")}, from_zero=True
    ),
    Panel(
        "oov",
        "Out of vocabulary",
        "% of fields",
        {"": value_of("oov_rate", factor=100)},
        from_zero=True,
    ),
)


def draw(panel: Panel, runs: Sequence[Run]) -> Figure | None:
    """The picture of a quantity, over rows and over time; None where no run has it."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.4), sharey=True, layout="constrained")
    drawn = 0
    for number, run in enumerate(runs):
        lines = _thinned(run.lines)
        for place, (label, value) in enumerate(panel.curves.items()):
            points = [(line, value(line)) for line in lines]
            known = [(line, found) for line, found in points if found is not None]
            if not known:
                continue
            drawn += 1
            name = curve_label(run.name if len(runs) > 1 else "", label)
            # Curves of a single run differ by colour, those of several runs by line style.
            color = COLORS[(number if len(runs) > 1 else place) % len(COLORS)]
            style = {**curve_style(color, place, len(known)), "label": name or None}
            values = [found for _, found in known]
            axes[0].plot([line["rows"] for line, _ in known], values, **style)
            axes[1].plot([_elapsed(run, line) for line, _ in known], values, **style)
    if drawn:
        _dress(panel, axes)
        show_legend(figure)
        return figure
    plt.close(figure)
    return None


def curve_style(color: str, place: int, points: int) -> dict[str, Any]:
    """How the first or second curve of a run is drawn; few points are marked."""
    return {
        "color": color,
        "linestyle": ("-", "--")[place % 2],
        "linewidth": 1.6,
        "marker": "o" if points < 30 else "",
        "markersize": 3.5,
    }


def _thinned(lines: list[Line]) -> list[Line]:
    """At most MAX_POINTS lines at equal distances, the last one included."""
    every = -(-len(lines) // MAX_POINTS)
    return lines[(len(lines) - 1) % every :: every]


def _dress(panel: Panel, axes: Sequence[Axes]) -> None:
    for axis, meaning in zip(axes, ("rows trained", "minutes since the first report")):
        dress_axis(axis, meaning)
        if panel.reference is not None:
            axis.axhline(panel.reference, color="#888888", linewidth=1, zorder=0)
    axes[0].set_ylabel(panel.unit)
    if panel.from_zero:
        axes[0].set_ylim(0, 1.05 * axes[0].dataLim.y1 or 1)


def dress_axis(axis: Axes, meaning: str) -> None:
    """Gives an axis the look of this page, and its x axis a meaning."""
    axis.set_xlabel(meaning)
    axis.grid(True, color="#dddddd", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.6g}"))


def show_legend(figure: Figure) -> bool:
    """Names the curves above the picture, each once; False where none has a name."""
    handles = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels())
    }
    if handles:
        place = "outside upper right"
        figure.legend(handles.values(), handles.keys(), loc=place, ncols=4, frameon=False)
    return bool(handles)


def draw_oov_by_column(runs: Sequence[Run]) -> Figure | None:
    """Out of vocabulary by column, in each run's last report."""
    known = [
        (run, run.lines[-1]["oov_rate_by_column"])
        for run in runs
        if run.lines[-1].get("oov_rate_by_column")
    ]
    if not known:
        return None
    figure, axis = plt.subplots(figsize=(12, 3.4), layout="constrained")
    width = 0.8 / len(known)
    for number, (run, rates) in enumerate(known):
        places = [place + number * width for place in range(len(rates))]
        heights = [100 * rate for rate in rates]
        axis.bar(places, heights, width, color=COLORS[number % len(COLORS)], label=run.name)
    middle = 0.4 - width / 2
    axis.set_xticks([place + middle for place in range(len(CATEGORICAL_COLUMNS))])
    axis.set_xticklabels(CATEGORICAL_COLUMNS)
    axis.set_ylabel("% of rows")
    axis.spines[["top", "right"]].set_visible(False)
    if len(known) > 1:
        figure.legend(loc="outside upper right", ncols=4, frameon=False)
    return figure


def curve_label(run: str, curve: str) -> str:
    """The name of a curve in a legend."""
    return ", ".join(part for part in (run, curve) if part)


def _elapsed(run: Run, line: Line) -> float:
    minutes: float = (line["time"] - run.lines[0]["time"]) / 60
    return minutes
