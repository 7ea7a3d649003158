"""The page as HTML: a table of the runs, and the pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from examples.report_page.differences import draw_differences
from examples.report_page.pictures import PANELS, draw, draw_oov_by_column
from examples.report_page.reliability import draw_reliability
from examples.report_page.runs import Run, value_of
from src.process.files import atomic_write_bytes

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


def _last(*keys: str, factor: float = 1.0) -> Callable[[Run], float | None]:
    value = value_of(*keys, factor=factor)
    return lambda run: value(run.lines[-1])


def _median_speed(run: Run) -> float | None:
    speeds = sorted(filter(None, (line.get("rows_per_second") for line in run.lines)))
    return speeds[len(speeds) // 2] if speeds else None


SUMMARY: tuple[tuple[str, Callable[[Run], float | None], str], ...] = (
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


def draw_all(runs: Sequence[Run]) -> Iterator[tuple[str, str, Figure]]:
    """Name, title and figure of each picture; those that have nothing to show are left out."""
    drawn = [
        *((panel.name, panel.title, draw(panel, runs)) for panel in PANELS),
        ("oov_by_column", "Out of vocabulary by column, last report", draw_oov_by_column(runs)),
        (
            "reliability",
            "Reliability: the newest rows in ten groups by score",
            draw_reliability(runs),
        ),
        ("differences", f"Difference from the first run, {runs[0].name}", draw_differences(runs)),
    ]
    for name, title, figure in drawn:
        if figure is not None:
            yield name, title, figure


def write_report(runs: Sequence[Run], output: Path) -> list[Path]:
    """Writes the page and, beside it, each picture as PNG.

    Returns:
        The files written, the page first.

    Raises:
        OSError: One can't be written.
    """
    written = [output]
    pictures = []
    for name, title, figure in draw_all(runs):
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
