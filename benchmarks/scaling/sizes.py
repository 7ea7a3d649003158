"""Shows how cost grows: rows/s and memory against one size at a time.

    python -m benchmarks.scaling.sizes
    python -m benchmarks.scaling.sizes --series window dictionary

Each point is measured in a process of its own, so that its memory is its own. The output is a
table, build/scale.json and build/scale.png. A point that fails, or that does not fit the free
memory, is left out and named.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from tqdm import tqdm

from benchmarks.processes.child import run_in_child
from benchmarks.report import machine
from benchmarks.scaling.size_points import SERIES, Point
from benchmarks.settings import Settings
from examples.services.common import ROOT, ServiceError
from examples.services.kafka_service import KafkaService
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.process.ports import free_port

logger = logging.getLogger("benchmarks.scaling")

USABLE_SHARE = 0.8  # of the memory that is free when a point starts


@dataclass(frozen=True)
class Measured:
    """A point and its measurement.

    Attributes:
        series: The name of the size that is varied.
        size: The size.
        rate: Work per second.
        unit: The rate's unit.
        peak_mb: The process's peak of resident memory, MiB.
        others: Other numbers, by name.
    """

    series: str
    size: int
    rate: float
    unit: str
    peak_mb: float
    others: dict[str, float]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = FlagParser(
        prog="python -m benchmarks.scaling.sizes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag(
        "--series", nargs="+", choices=SERIES, default=list(SERIES), help="series to measure (all)"
    )
    flag("--largest", type=int, default=0, help="largest size to measure (0 for all)")
    flag(
        "--json",
        type=path_flag,
        default=ROOT / "build" / "scale.json",
        help="file of the results (build/scale.json)",
    )
    flag(
        "--png",
        type=path_flag,
        default=ROOT / "build" / "scale.png",
        help="file of the picture (build/scale.png)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and draws; returns 0, or 1 where a point failed."""
    arguments = parse_args(argv)
    configure_logging()
    described = machine()
    points = [
        (name, point)
        for name in arguments.series
        for point in SERIES[name]
        if not arguments.largest or point.size <= arguments.largest
    ]
    try:
        measured, left_out = measure_all(points)
    except ServiceError as error:
        logger.error("%s", error)
        return 1
    content = {"machine": described, "points": [asdict(one) for one in measured]}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    print(table(measured))
    for line in left_out:
        print(f"left out: {line}")
    draw(measured, arguments.png)
    return 1 if any("failed" in line for line in left_out) else 0


def measure_all(points: Sequence[tuple[str, Point]]) -> tuple[list[Measured], list[str]]:
    """Measures all points; returns the measurements, and the points left out."""
    measured: list[Measured] = []
    left_out: list[str] = []
    with _services(points) as settings:
        for name, point in tqdm(points, desc="scale", unit="point", disable=None):
            free_mb = psutil.virtual_memory().available / 2**20
            if point.needs_mb > USABLE_SHARE * free_mb:
                left_out.append(
                    f"{name} {point.size:,}: needs {point.needs_mb:,.0f} of {free_mb:,.0f} MB"
                )
                continue
            logger.info("%s %d", name, point.size)
            answer = run_in_child(_measure, point, settings)
            if answer is None:
                left_out.append(f"{name} {point.size:,}: it failed")
                continue
            measured.append(Measured(name, point.size, *answer))
    return measured, left_out


@contextlib.contextmanager
def _services(points: Sequence[tuple[str, Point]]) -> Iterator[Settings]:
    settings = Settings()
    if not any(point.kafka for _, point in points):
        yield settings
        return
    folder = settings.work_dir / "scale_kafka"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with KafkaService(folder, free_port()) as kafka:
            yield dataclasses.replace(settings, bootstrap_servers=kafka.bootstrap_servers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(point: Point, settings: Settings) -> tuple[float, str, float, dict[str, float]]:
    """(rate, unit, peak, others) of a point."""
    rate, unit, others = point.measure(settings)
    # A point may report a peak of its own, for example where a child does the work.
    peak = others.pop("peak_mb", None)
    return rate, unit, peak_mb() if peak is None else peak, others


def peak_mb() -> float:
    """This process's peak of resident memory, MiB.

    Not ``ru_maxrss``: a new process inherits its parent's.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def table(measured: Sequence[Measured]) -> str:
    """The points as aligned text."""
    rows = [("series", "size", "rate", "unit", "peak MB", "")]
    for one in measured:
        others = ", ".join(f"{name} {value:.4g}" for name, value in one.others.items())
        shown = (one.series, f"{one.size:,}", f"{one.rate:,.0f}", one.unit, f"{one.peak_mb:,.0f}")
        rows.append((*shown, others))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [f"{cell:{side}{width}}" for cell, width, side in zip(row, widths, "<>><><")]
        lines.append("  ".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def draw(measured: Sequence[Measured], path: Path) -> None:
    """Draws a panel per series: the rate, and the memory on a second axis."""
    try:
        import matplotlib
    except ImportError:
        logger.warning("no %s: matplotlib is not installed", path)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(one.series for one in measured))
    if not names:
        return
    figure, panels = pyplot.subplots(len(names), figsize=(7, 3 * len(names)), squeeze=False)
    for name, axes in zip(names, panels[:, 0]):
        points = [one for one in measured if one.series == name]
        sizes = [one.size for one in points]
        axes.loglog(sizes, [one.rate for one in points], "o-", color="tab:blue")
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("size")
        axes.set_ylabel(points[0].unit, color="tab:blue")
        memory = axes.twinx()
        memory.loglog(sizes, [one.peak_mb for one in points], "s--", color="tab:orange")
        memory.set_ylabel("peak memory, MB", color="tab:orange")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    logger.info("drew %s", path)


if __name__ == "__main__":
    sys.exit(main())
