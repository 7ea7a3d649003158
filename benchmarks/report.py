"""Results, and how they and their targets are shown."""

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

from benchmarks.targets import TARGETS, Target

RATES = ("rows/s", "windows/s")
TIMES = ("ms", "s")
COLUMNS = ("ratio", "ours", "of_limit", "peer_ratio")
"""The measures that have a column of the table."""
HOLDS, MISSED = "holds", "MISSED"


@dataclass(frozen=True)
class Peer:
    """What another library reaches with the same work, in the same rounds.

    Attributes:
        name: The library and its version.
        value: What it reaches, in the unit of the result.
    """

    name: str
    value: float


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        name: The stage, with its size where there are several.
        documented: What the documented way reaches, in ``unit``; None where it has no such stage.
        ours: What this project reaches.
        unit: One of ``RATES`` (more is better) or ``TIMES`` (less is better).
        limit: The best that the hardware or the layer below can do; None where there is no bound.
        measures: Other numbers for targets or readers, by name.
        peer: Another library; None where none was measured.
    """

    name: str
    documented: float | None
    ours: float
    unit: str
    limit: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    peer: Peer | None = None

    @classmethod
    def of_medians(
        cls,
        name: str,
        unit: str,
        medians: Mapping[str, float],
        peer_name: str = "",
        /,
        **measures: float,
    ) -> Result:
        """A result from the medians of "ours" and of "documented", "limit" and "peer", if any."""
        peer = Peer(peer_name, medians["peer"]) if "peer" in medians else None
        documented, limit = medians.get("documented"), medians.get("limit")
        return cls(name, documented, medians["ours"], unit, limit, measures, peer)

    def __post_init__(self) -> None:
        if self.unit not in RATES + TIMES:
            raise ValueError(f"unit {self.unit!r} is none of {', '.join(RATES + TIMES)}")

    @property
    def ratio(self) -> float | None:
        """This project's speed, in multiples of the documented way's."""
        return self._speed_by(self.documented)

    @property
    def of_limit(self) -> float | None:
        """The reached share of the limit."""
        return self._speed_by(self.limit)

    @property
    def peer_ratio(self) -> float | None:
        """This project's speed, in multiples of the peer's."""
        return None if self.peer is None else self._speed_by(self.peer.value)

    def _speed_by(self, other: float | None) -> float | None:
        if other is None:
            return None
        return self.ours / other if self.unit in RATES else other / self.ours

    def value(self, measure: str) -> float | None:
        """A number of the result, by the name that a target uses."""
        if measure in COLUMNS:
            found: float | None = getattr(self, measure)
            return found
        return self.measures.get(measure)

    def to_json(self) -> dict[str, Any]:
        """The result as the JSON file holds it."""
        return {
            "documented": self.documented,
            "ours": self.ours,
            "unit": self.unit,
            "ratio": self.ratio,
            "limit": self.limit,
            "of_limit": self.of_limit,
            "peer": self._peer_to_json(),
            **self.measures,
        }

    def _peer_to_json(self) -> dict[str, Any] | None:
        if self.peer is None:
            return None
        return {"name": self.peer.name, "value": self.peer.value, "ratio": self.peer_ratio}


def missed(results: Sequence[Result], targets: Sequence[Target] = TARGETS) -> list[str]:
    """The targets that the given results miss, one phrase each."""
    by_name = {result.name: result for result in results}
    phrases = []
    for target in targets:
        result = by_name.get(target.result)
        if result is not None and verdict(target, result) == MISSED:
            measured = _number(result.value(target.measure))
            phrases.append(f"{target.result}: {target}, measured {measured}")
    return phrases


def verdict(target: Target, result: Result) -> str:
    """Whether a result reaches a target; without a peer nothing is said about a ratio to it."""
    if target.measure == "peer_ratio" and result.peer is None:
        return "needs --peers"
    return HOLDS if target.holds(result.value(target.measure)) else MISSED


def table(results: Sequence[Result], targets: Sequence[Target] = TARGETS) -> str:
    """The results as aligned text; each target is marked as holding or missed."""
    head = ("stage", "documented", "ours", "unit", "ratio", "limit", "of limit", "peer", "targets")
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
        number = _number(result.value(target.measure))
        measured = "" if target.measure in COLUMNS else f" ({number})"
        shown.append(f"{target}{measured}: {verdict(target, result)}")
    asked = {target.measure for target in mine}
    others = [
        f"{name} {_number(value)}" for name, value in result.measures.items() if name not in asked
    ]
    return (
        result.name,
        _number(result.documented),
        _number(result.ours),
        result.unit,
        "-" if result.ratio is None else f"{result.ratio:.2f}",
        _number(result.limit),
        "-" if result.of_limit is None else f"{result.of_limit:.0%}",
        _peer_cell(result),
        "; ".join(shown + others),
    )


def _peer_cell(result: Result) -> str:
    """The peer's number, our speed in multiples of it, and its name."""
    if result.peer is None:
        return "-"
    return f"{_number(result.peer.value)} ({result.peer_ratio:.2f}) {result.peer.name}"


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
