"""A small version that serves, and good and bad rows."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from src.scoring.follower import Follower
from src.scoring.model import ServedModel
from tests.scoring.made import TRAINED_UNTIL_MS, Publisher

NOW = TRAINED_UNTIL_MS / 1000 + 5
OBJECTS: list[dict[str, Any]] = [
    {"I1": 3, "C1": "known", "C26": "known"},
    {"I1": None, "C1": "v1"},
    {"I2": -4, "C1": "v2", "C3": "unknown"},
]
BAD = {"I1": "x"}


@functools.cache
def served() -> ServedModel:
    """Version 10 at position {0: 100, 1: 7}."""
    with tempfile.TemporaryDirectory() as folder:
        Publisher(Path(folder)).full()
        follower = Follower(Path(folder))
        follower.look()
        with follower.model() as model:
            return model


def line(row: dict[str, Any]) -> str:
    """A row as a line of 39 fields."""
    names = [f"I{number}" for number in range(1, 14)] + [f"C{number}" for number in range(1, 27)]
    return "\t".join("" if row.get(name) is None else str(row[name]) for name in names)
