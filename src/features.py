"""Column functions: a dense column becomes weights, a categorical column becomes ids.

They are pure and work on whole columns; the consumer runs them through MindPandas' ``apply``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from src.arrays import Array
from src.criteo import CATEGORICAL_COLUMNS, CATEGORICAL_SIZE, DENSE_SIZE, FIELD_SIZE
from src.dictionaries import Dictionaries

_BITS = 1 << np.arange(CATEGORICAL_SIZE, dtype=np.uint32)


def scale_dense_column(column: pd.Series, minimum: float, maximum: float) -> pd.Series:
    """(x − min) / (max − min), and 0 where x is missing or max = min.

    Args:
        column: float64[rows], NaN where missing.
        minimum: The dictionary's minimum of the column.
        maximum: Its maximum.

    Returns:
        float32[rows].
    """
    width = maximum - minimum
    if width == 0:
        return pd.Series(np.zeros(len(column), dtype=np.float32), name=column.name)
    scaled = (column.to_numpy() - minimum) / width
    return pd.Series(np.nan_to_num(scaled, copy=False).astype(np.float32), name=column.name)


def look_up_categorical_column(
    column: pd.Series, id_by_value: Mapping[str, int], oov_id: int
) -> pd.Series:
    """The id of each value; the out-of-vocabulary id where it is unknown.

    A missing value is the empty string: unknown unless the dictionary gives that an id. Each
    distinct value of the window is looked up once and its id spread over the rows.

    Args:
        column: A pandas categorical column, code -1 where missing.
        id_by_value: The column's own dictionary.
        oov_id: The column's out-of-vocabulary id.

    Returns:
        int32[rows].
    """
    values = column.cat.categories.tolist()
    ids = np.empty(len(values) + 1, dtype=np.int32)
    known = map(id_by_value.get, values, [oov_id] * len(values))
    ids[:-1] = np.fromiter(known, dtype=np.int32, count=len(values))
    ids[-1] = id_by_value.get("", oov_id)  # code -1, a missing value, picks the last entry
    return pd.Series(ids[column.cat.codes.to_numpy()], name=column.name)


class ColumnFunctions:
    """The two column functions bound to the dictionaries, as ``apply`` wants them."""

    def __init__(self, dictionaries: Dictionaries) -> None:
        self._dictionaries = dictionaries
        self._categorical_place = {name: place for place, name in enumerate(CATEGORICAL_COLUMNS)}

    def scale(self, column: pd.Series) -> pd.Series:
        """``scale_dense_column`` for the column of that name."""
        name = str(column.name)
        return scale_dense_column(
            column,
            self._dictionaries.min_by_column[name],
            self._dictionaries.max_by_column[name],
        )

    def look_up(self, column: pd.Series) -> pd.Series:
        """``look_up_categorical_column`` for the column of that name."""
        place = self._categorical_place[str(column.name)]
        return look_up_categorical_column(
            column,
            self._dictionaries.ids_by_column[place],
            int(self._dictionaries.oov_ids[place]),
        )


def assemble(dense_weights: Array, categorical_ids: Array, dense_ids: Array) -> tuple[Array, Array]:
    """Puts the two kinds of fields side by side.

    Args:
        dense_weights: float32[rows, 13].
        categorical_ids: int32[rows, 26].
        dense_ids: int32[13], the dictionary ids of ``I1..I13``.

    Returns:
        (id int32[rows, 39], weight float32[rows, 39]); a categorical field weighs 1.
    """
    rows = len(dense_weights)
    ids = np.empty((rows, FIELD_SIZE), dtype=np.int32)
    ids[:, :DENSE_SIZE] = dense_ids
    ids[:, DENSE_SIZE:] = categorical_ids
    weights = np.ones((rows, FIELD_SIZE), dtype=np.float32)
    weights[:, :DENSE_SIZE] = dense_weights
    return ids, weights


def oov_bits(ids: Array, oov_ids: Array) -> Array:
    """Which categorical fields are out of vocabulary; a missing value is, unless it has an id.

    Args:
        ids: int32[rows, 39].
        oov_ids: int32[26], the out-of-vocabulary ids of ``C1..C26``.

    Returns:
        uint32[rows]; bit 0 is C1's, bit 25 that of C26.
    """
    bits: Array = np.where(ids[:, DENSE_SIZE:] == oov_ids, _BITS, 0).sum(axis=1, dtype=np.uint32)
    return bits


def count_oov(bits: Array) -> Array:
    """How many rows are out of vocabulary in each of ``C1..C26``, int64[26], from ``oov_bits``."""
    counts: Array = np.count_nonzero(bits[:, None] & _BITS, axis=0)
    return counts
