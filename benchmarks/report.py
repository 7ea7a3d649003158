"""Results and targets, and how both are shown."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

RATES = ("rows/s", "windows/s")
TIMES = ("ms", "s")


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        name: The stage, with its size where there are several.
        documented: What the documented way reaches, in ``unit``.
        ours: What this project reaches.
        unit: One of ``RATES`` (more is better) or ``TIMES`` (less is better).
        limit: The best that the hardware or the layer below can do; None where there is no bound.
        measures: Other numbers for targets or readers, by name.
    """

    name: str
    documented: float
    ours: float
    unit: str
    limit: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_medians(
        cls, name: str, unit: str, medians: Mapping[str, float], **measures: float
    ) -> Result:
        """A result from the medians of "documented", "ours" and, where there is one, "limit"."""
        return cls(
            name, medians["documented"], medians["ours"], unit, medians.get("limit"), measures
        )

    def __post_init__(self) -> None:
        if self.unit not in RATES + TIMES:
            raise ValueError(f"unit {self.unit!r} is none of {', '.join(RATES + TIMES)}")

    @property
    def ratio(self) -> float:
        """This project's speed, in multiples of the documented way's."""
        return self._better(self.ours, self.documented)

    @property
    def of_limit(self) -> float | None:
        """The reached share of the limit."""
        return None if self.limit is None else self._better(self.ours, self.limit)

    def _better(self, one: float, other: float) -> float:
        return one / other if self.unit in RATES else other / one

    def value(self, measure: str) -> float | None:
        """A number of the result, by the name that a target uses."""
        own = {"ratio": self.ratio, "ours": self.ours}
        return own[measure] if measure in own else self.measures.get(measure)

    def to_json(self) -> dict[str, Any]:
        """The result as the JSON file holds it."""
        return {
            "documented": self.documented,
            "ours": self.ours,
            "unit": self.unit,
            "ratio": self.ratio,
            "limit": self.limit,
            "of_limit": self.of_limit,
            **self.measures,
        }


@dataclass(frozen=True)
class Target:
    """A bound that a result has to reach.

    Attributes:
        result: Name of the result.
        measure: ``ratio``, ``ours``, or one of the result's other measures.
        at_least: The bound.
    """

    result: str
    measure: str
    at_least: float

    def holds(self, result: Result) -> bool:
        """Whether a result reaches the bound; a missing number does not."""
        value = result.value(self.measure)
        return value is not None and value >= self.at_least

    def __str__(self) -> str:
        return f"{self.measure} >= {self.at_least:,.3g}"


TARGETS = (
    Target("produce", "ratio", 2.5),
    Target("features_1000", "ratio", 60),
    Target("features_10000", "ratio", 150),
    Target("consume", "ratio", 30),
    Target("consume", "ours", 40_000),  # rows/s, on the machine that benchmarks/README.md describes
    Target("channel", "ratio", 4),
    Target("feed_100", "ratio", 15),
    Target("feed_1000", "ratio", 80),
    Target("train_step", "ratio", 2.5),
    Target("train_step_sparse", "ratio", 6),
    # Time at a vocabulary of 200,000 / time at 2,000,000: at most 1.2 times as long.
    Target("train_step_sparse", "vocabulary_ratio", 1 / 1.2),
    Target("watching", "ratio", 0.98),
    Target("end_to_end", "ratio", 2.2),
    Target("end_to_end", "busy", 0.95),
)


def missed(results: Sequence[Result], targets: Sequence[Target] = TARGETS) -> list[str]:
    """The targets that the given results miss, one phrase each."""
    by_name = {result.name: result for result in results}
    phrases = []
    for target in targets:
        result = by_name.get(target.result)
        if result is not None and not target.holds(result):
            measured = _number(result.value(target.measure))
            phrases.append(f"{target.result}: {target}, measured {measured}")
    return phrases


def table(results: Sequence[Result], targets: Sequence[Target] = TARGETS) -> str:
    """The results as aligned text; each target is marked as holding or missed."""
    head = ("stage", "documented", "ours", "unit", "ratio", "limit", "of limit", "targets")
    rows = [head, *(_table_row(result, targets) for result in results)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head) - 1)]
    left = (0, 3)  # names and units; numbers are aligned right
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join((*cells, row[-1])).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _table_row(result: Result, targets: Sequence[Target]) -> tuple[str, ...]:
    mine = [target for target in targets if target.result == result.name]
    shown = []
    for target in mine:
        measured = "" if target.measure in ("ratio", "ours") else f" ({_measured(result, target)})"
        verdict = "holds" if target.holds(result) else "MISSED"
        shown.append(f"{target}{measured}: {verdict}")
    asked = {target.measure for target in mine}
    others = [
        f"{name} {_number(value)}" for name, value in result.measures.items() if name not in asked
    ]
    share = "-" if result.of_limit is None else f"{result.of_limit:.0%}"
    return (
        result.name,
        _number(result.documented),
        _number(result.ours),
        result.unit,
        f"{result.ratio:.2f}",
        _number(result.limit),
        share,
        "; ".join(shown + others),
    )


def _measured(result: Result, target: Target) -> str:
    return _number(result.value(target.measure))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """The machine and the packages of the measurement."""
    packages = ("mindspore", "mindpandas", "kafka-python", "numpy", "pandas", "pyarrow")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "commit": _commit(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _version(package: str) -> str:
    # The engine's client puts a None on the module path, at which ``metadata.version`` fails.
    path = [entry for entry in sys.path if entry]
    return next(iter(metadata.distributions(name=package, path=path))).version


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def write_json(path: Path, results: Sequence[Result], described: Mapping[str, Any]) -> None:
    """Writes all results by name, and the machine under "machine"."""
    content = {"machine": described, **{result.name: result.to_json() for result in results}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
