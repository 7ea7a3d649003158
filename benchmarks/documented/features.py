"""The documented features: a window is a MindPandas frame, and functions take it row by row.

The features equal those of `src.features`, so that outputs can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import mindpandas
import numpy as np
import pandas as pd
from mindpandas import config as mindpandas_config

from src.dictionaries.dictionaries import Dictionaries
from src.process.arrays import Array
from src.rows.criteo import COLUMNS, DENSE_SIZE, LABEL

STOCK_PARTS = (16, 16)  # MindPandas' own default, which the page does not change

Message = tuple[bytes, bytes]
"""(key, value)."""


class RowFunctions:
    """The functions that ``apply`` calls with every row of a window."""

    def __init__(self, dictionaries: Dictionaries) -> None:
        self._min = dictionaries.min_by_column
        self._max = dictionaries.max_by_column
        self._ids = dictionaries.id_by_token

    def ids(self, row: pd.Series) -> Array:
        """int[39]: the id of each field of a row without its label."""
        found = []
        for place, value in enumerate(row):
            column = COLUMNS[place + 1]
            if place < DENSE_SIZE:
                found.append(self._ids[column])
            else:
                key = f"{column}_{'' if pd.isna(value) else value}"
                found.append(self._ids.get(key, self._ids[f"OOV{column}"]))
        return np.array(found)

    def weights(self, row: pd.Series) -> Array:
        """float[39]: the weight of each field of a row without its label."""
        found = []
        for place, value in enumerate(row):
            weight = 1.0
            if place < DENSE_SIZE:
                column = COLUMNS[place + 1]
                low, high = self._min[column], self._max[column]
                missing = np.isnan(float(value)) or high == low
                weight = 0.0 if missing else (float(value) - low) / (high - low)
                weight = min(max(weight, 0.0), 1.0)  # not upstream's, so that the rows are equal
            found.append(weight)
        return np.array(found)

    def label(self, value: float) -> Array:
        """int[1]: the label."""
        return np.array([int(value)])


def window_features(
    messages: Sequence[Message], functions: RowFunctions, parts: tuple[int, int] = STOCK_PARTS
) -> Any:
    """A window as a MindPandas frame of id, weight and label, each cell an array."""
    before = mindpandas_config.get_partition_shape()
    mindpandas_config.set_partition_shape(parts)
    try:
        return _window_features(messages, functions)
    finally:
        mindpandas_config.set_partition_shape(before)


def _window_features(messages: Sequence[Message], functions: RowFunctions) -> Any:
    columns = [json.loads(key) for key, _ in messages][0]
    rows = [json.loads(value) for _, value in messages]
    frame = mindpandas.DataFrame(pd.DataFrame(rows, columns=columns))
    fields = frame.drop(columns=[LABEL])
    frame["id"] = fields.apply(functions.ids, axis=1)
    frame["weight"] = fields.apply(functions.weights, axis=1)
    frame[LABEL] = frame[LABEL].apply(functions.label)
    return frame[["id", "weight", LABEL]]


def stacked(window: Any) -> tuple[Array, Array, Array]:
    """A window's features as arrays, to be compared: [rows, 39], [rows, 39], [rows]."""
    ids, weights, labels = zip(*window)
    return np.stack(ids), np.stack(weights), np.concatenate(labels)
