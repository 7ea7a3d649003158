"""Dictionaries as the original builder writes them, and dictionaries built from given rows."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from src.dictionaries.builder import DictionaryBuilder
from src.dictionaries.dictionaries import Dictionaries
from src.rows.criteo import CATEGORICAL_COLUMNS, DENSE_COLUMNS, LABEL


def upstream_max() -> dict[str, Any]:
    """As the original builder writes it: the start value 0 is an int, a seen one is np.int64."""
    return {column: np.int64(10 + place) for place, column in enumerate(DENSE_COLUMNS)}


def upstream_min() -> dict[str, Any]:
    return {**dict.fromkeys(DENSE_COLUMNS, 0), "I2": np.int64(-3)}


def upstream_ids() -> dict[str, Any]:
    ids: dict[str, Any] = {f"I{number + 1}": number for number in range(13)}
    ids.update({f"OOVC{number + 1}": 13 + number for number in range(26)})
    for token in ("C1_68fd1e64", "C1_05db9164", "C10_a73ee510", "C26_x_y"):
        ids[token] = len(ids)
    return ids


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def rows_table(rows: list[dict[str, Any]]) -> pa.Table:
    """A table of the 40 columns; what a row does not mention is missing."""
    schema = pa.schema(
        [(column, pa.int64()) for column in (LABEL, *DENSE_COLUMNS)]
        + [(column, pa.string()) for column in CATEGORICAL_COLUMNS]
    )
    return pa.Table.from_pylist([{LABEL: 0, **row} for row in rows], schema=schema)


def build(*blocks: pa.Table, most_held: int = 1000, **options: Any) -> Dictionaries:
    folder = tempfile.gettempdir()
    with contextlib.closing(DictionaryBuilder(folder, most_held)) as builder:
        for block in blocks:
            builder.add(block)
        return builder.finish(**options)
