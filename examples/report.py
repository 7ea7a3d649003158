"""Draws what trainers have written to their metrics files: one page, and its pictures beside it.

    python examples/report.py metrics.jsonl
    python examples/report.py before/metrics.jsonl after/metrics.jsonl --output report.html

Each file is one run, and several runs are drawn over each other. Files that were moved aside by
size (metrics.jsonl.1 and so on) belong to it. Where a trainer went back to a checkpoint, what it
had reported beyond that is left out: those steps were done again.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")  # no display is needed

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from src.process.files import atomic_write_bytes
from src.process.logs import configure_logging
from src.rows.criteo import CATEGORICAL_COLUMNS

logger = logging.getLogger("report")

Line = dict[str, Any]
Value = Optional[float]
MAX_POINTS = 2000  # more are not seen on a screen
COLORS = ("#0b62a4", "#d1495b", "#2e8b57", "#8e5ea2", "#c77d0a", "#444444")


class ReportError(RuntimeError):
    """There is nothing to draw; one line says why."""


@dataclass(frozen=True)
class Run:
    """The lines of one metrics file, by step.

    Attributes:
        name: What it is called on the page.
        lines: The JSON lines, oldest first.
    """

    name: str
    lines: list[Line]


@dataclass(frozen=True)
class Panel:
    """A quantity to draw.

    Attributes:
        name: The picture's name.
        title: What it shows.
        unit: On the y axis.
        curves: What is drawn, by label; "" for a single one.
        reference: A level to compare with.
        from_zero: Whether the y axis begins at 0.
    """

    name: str
    title: str
    unit: str
    curves: dict[str, Callable[[Line], Value]]
    reference: Optional[float] = None
    from_zero: bool = False


def _of(*keys: str, factor: float = 1.0) -> Callable[[Line], Value]:
    def value(line: Line) -> Value:
        found: Any = line
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return None if found is None else found * factor

    return value


def _scopes(key: str) -> dict[str, Callable[[Line], Value]]:
    return {"newest rows": _of("window", key), "all rows": _of("life", key)}


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
    Panel("loss", "Losses", "", {"wide": _of("wide_loss"), "deep": _of("deep_loss")}),
    Panel("throughput", "Throughput", "rows/s", {"": _of("rows_per_second")}, from_zero=True),
    Panel(
        "step_time",
        "Time of a step",
        "ms",
        {"working": _of("step_seconds", factor=1e3), "waiting": _of("wait_seconds", factor=1e3)},
        from_zero=True,
    ),
    Panel("lag_rows", "Rows not yet trained on", "rows", {"": _of("lag_rows")}, from_zero=True),
    Panel("lag_seconds", "Age of the newest row", "s", {"": _of("lag_seconds")}, from_zero=True),
    Panel(
        "oov", "Out of vocabulary", "% of fields", {"": _of("oov_rate", factor=100)}, from_zero=True
    ),
)


# --- reading -------------------------------------------------------------------------------------


def read_run(path: Path) -> Run:
    """Reads a metrics file and what was moved aside of it.

    Raises:
        ReportError: There are no lines, or a file can't be read.
    """
    lines: list[Line] = []
    for part in [*_moved_aside(path), path]:
        try:
            text = part.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ReportError(f"{part}: {error}") from None
        lines.extend(_parse(part, text))
    kept = without_undone_steps(lines)
    if not kept:
        raise ReportError(f"{path}: there are no reports in it")
    return Run(str(path), kept)


def _moved_aside(path: Path) -> list[Path]:
    """The rotated files, oldest first."""
    numbered = {
        int(other.name[len(path.name) + 1 :]): other
        for other in path.parent.glob(f"{path.name}.*")
        if other.name[len(path.name) + 1 :].isdecimal()
    }
    return [numbered[number] for number in sorted(numbered, reverse=True)]


def _parse(path: Path, text: str) -> Iterable[Line]:
    for number, content in enumerate(text.splitlines(), start=1):
        try:
            line = json.loads(content)
            if not {"step", "rows", "time"} <= line.keys():
                raise ValueError("not a report")
        except (AttributeError, ValueError) as error:
            # A trainer that was killed may have left half a line.
            logger.warning("%s, line %d is left out: %s", path, number, error)
            continue
        yield line


def without_undone_steps(lines: Iterable[Line]) -> list[Line]:
    """Leaves out what was reported beyond a checkpoint that a later trainer went back to."""
    kept: list[Line] = []
    for line in lines:
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append(line)
    return kept


# --- drawing -------------------------------------------------------------------------------------


def draw(panel: Panel, runs: Sequence[Run]) -> Optional[Figure]:
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
            name = _label(run.name if len(runs) > 1 else "", label)
            # A single run's curves differ by colour, those of several runs by dash.
            color = COLORS[(number if len(runs) > 1 else place) % len(COLORS)]
            style = {
                "color": color,
                "linestyle": ("-", "--")[place % 2],
                "linewidth": 1.6,
                "marker": "o" if len(known) < 30 else "",
                "markersize": 3.5,
                "label": name or None,
            }
            values = [found for _, found in known]
            axes[0].plot([line["rows"] for line, _ in known], values, **style)
            axes[1].plot([_elapsed(run, line) for line, _ in known], values, **style)
    if drawn:
        _dress(panel, axes)
        return figure
    plt.close(figure)
    return None


def _thinned(lines: list[Line]) -> list[Line]:
    """Every so many lines, the last one among them."""
    every = -(-len(lines) // MAX_POINTS)
    return lines[(len(lines) - 1) % every :: every]


def _dress(panel: Panel, axes: Any) -> None:
    for axis, meaning in zip(axes, ("rows trained", "minutes since the first report")):
        axis.set_xlabel(meaning)
        axis.grid(True, color="#dddddd", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.6g}"))
        if panel.reference is not None:
            axis.axhline(panel.reference, color="#888888", linewidth=1, zorder=0)
    axes[0].set_ylabel(panel.unit)
    if panel.from_zero:
        axes[0].set_ylim(0, 1.05 * axes[0].dataLim.y1 or 1)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        axes[0].figure.legend(handles, labels, loc="outside upper right", ncols=4, frameon=False)


def draw_oov_by_column(runs: Sequence[Run]) -> Optional[Figure]:
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


def _label(run: str, curve: str) -> str:
    return ", ".join(part for part in (run, curve) if part)


def _elapsed(run: Run, line: Line) -> float:
    minutes: float = (line["time"] - run.lines[0]["time"]) / 60
    return minutes


# --- the page ------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px;
       padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
img { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .8rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
footer { margin-top: 2rem; color: #666; }
"""


def _last(*keys: str, factor: float = 1.0) -> Callable[[Run], Value]:
    value = _of(*keys, factor=factor)
    return lambda run: value(run.lines[-1])


def _median_speed(run: Run) -> Value:
    speeds = sorted(filter(None, (line.get("rows_per_second") for line in run.lines)))
    return speeds[len(speeds) // 2] if speeds else None


SUMMARY: tuple[tuple[str, Callable[[Run], Value], str], ...] = (
    ("rows", _last("rows"), "{:,.0f}"),
    ("steps", _last("step"), "{:,.0f}"),
    ("AUC, all rows", _last("life", "auc"), "{:.4f}"),
    ("AUC, newest", _last("window", "auc"), "{:.4f}"),
    ("log loss, all rows", _last("life", "log_loss"), "{:.4f}"),
    ("log loss, newest", _last("window", "log_loss"), "{:.4f}"),
    ("calibration, newest", _last("window", "calibration"), "{:.3f}"),
    ("OOV, last", _last("oov_rate", factor=100), "{:.1f} %"),
    ("rows/s, median", _median_speed, "{:,.0f}"),
)


def page(runs: Sequence[Run], pictures: Sequence[tuple[str, bytes]]) -> str:
    """The page as HTML that needs no other file.

    Args:
        runs: What was read.
        pictures: (title, SVG) of each picture.
    """
    heads = "".join(f"<th>{html.escape(name)}</th>" for name, _, _ in SUMMARY)
    rows = "".join(
        f"<tr><td>{html.escape(run.name)}</td>{_summary_cells(run)}</tr>" for run in runs
    )
    images = "".join(
        f'<h2>{html.escape(title)}</h2>\n<img alt="{html.escape(title)}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">\n'
        for title, svg in pictures
    )
    last = max(run.lines[-1]["time"] for run in runs)
    moment = datetime.fromtimestamp(last, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Online learning</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        "<h1>Online learning of Wide&amp;Deep</h1>\n"
        "<p>Every row was scored before it was trained on.</p>\n"
        f'<div class="wide"><table><thead><tr><th>run</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>\n{images}"
        f"<footer>Last report: {moment}</footer>\n</body>\n</html>\n"
    )


def _summary_cells(run: Run) -> str:
    found = [(value(run), form) for _, value, form in SUMMARY]
    return "".join(f"<td>{'?' if x is None else form.format(x)}</td>" for x, form in found)


def write_report(runs: Sequence[Run], output: Path) -> list[Path]:
    """Writes the page and, beside it, each picture as PNG.

    Returns:
        The files written, the page first.

    Raises:
        OSError: One can't be written.
    """
    written = [output]
    pictures = []
    figures = [(panel.name, panel.title, draw(panel, runs)) for panel in PANELS]
    title = "Out of vocabulary by column, last report"
    figures.append(("oov_by_column", title, draw_oov_by_column(runs)))
    for name, title, figure in figures:
        if figure is None:
            continue
        pictures.append((title, _rendered(figure, "svg")))
        path = output.with_name(f"{output.stem}-{name}.png")
        atomic_write_bytes(path, _rendered(figure, "png"))
        written.append(path)
        plt.close(figure)
    atomic_write_bytes(output, page(runs, pictures).encode())
    return written


def _rendered(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=110)
    return content.getvalue()


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="metrics.jsonl", help="one a run")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), help="the page (%(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Writes the report; returns 0, or 1 after an error, which is logged."""
    arguments = parse_args(argv)
    configure_logging()
    try:
        written = write_report([read_run(path) for path in arguments.files], arguments.output)
    except (ReportError, OSError) as error:
        logger.error("%s", error)
        return 1
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
