"""Reads the metrics files of runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger("report")

Line = dict[str, Any]
"""One report of a trainer, as its JSON line holds it."""


class ReportError(RuntimeError):
    """There is nothing to draw; the message is one line."""


@dataclass(frozen=True)
class Run:
    """The lines of one metrics file, by step.

    Attributes:
        name: Its name on the page.
        lines: The JSON lines, oldest first.
    """

    name: str
    lines: list[Line]


def value_of(*keys: str, factor: float = 1.0) -> Callable[[Line], float | None]:
    """Returns a function that reads one number of a report; None where the report lacks it.

    Args:
        *keys: Where the number stands: a key, and then keys of nested objects.
        factor: What it is multiplied by.
    """

    def value(line: Line) -> float | None:
        found: Any = line
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return None if found is None else found * factor

    return value


def read_run(path: Path) -> Run:
    """Reads a metrics file and its rotated files.

    Raises:
        ReportError: There are no lines, or a file can't be read.
    """
    lines: list[Line] = []
    for part in [*_rotated(path), path]:
        try:
            text = part.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ReportError(f"{part}: {error}") from None
        lines.extend(_parse(part, text))
    kept = without_undone_steps(lines)
    if not kept:
        raise ReportError(f"{path}: there are no reports in it")
    return Run(str(path), kept)


def _rotated(path: Path) -> list[Path]:
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
    """Leaves out the reports after a checkpoint to which a later trainer returned."""
    kept: list[Line] = []
    for line in lines:
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append(line)
    return kept
