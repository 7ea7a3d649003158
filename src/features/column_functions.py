"""Column functions: a dense column becomes weights, a categorical column becomes ids.

They are pure and work on whole columns; the consumer runs them through MindPandas' ``apply``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from src.dictionaries.dictionaries import Dictionaries, DictionaryError
from src.process.arrays import Array
from src.rows.criteo import (
    DENSE_COLUMNS,
    DENSE_SIZE,
    FIELD_SIZE,
    ParsedRows,
)

DENSE_TRANSFORMS = ("minmax", "log", "bucket")
BUCKETS = 64
BUCKETS_PER_E_FOLD = 4
_RESERVED = {"minmax": 0, "log": 1, "bucket": BUCKETS}


def scale_dense_column(column: Array, minimum: float, maximum: float) -> Array:
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
        return np.zeros(len(column), dtype=np.float32)
    scaled: Array = (column - minimum) / width
    return np.nan_to_num(scaled, copy=False).astype(np.float32)


def log_dense_column(column: Array) -> Array:
    """sign(x) · ln(1 + |x|), float32[rows] of float64[rows]; NaN where missing."""
    logs: Array = np.copysign(np.log1p(np.abs(column)), column).astype(np.float32)
    return logs


def bucket_dense_column(column: Array) -> Array:
    """Log-spaced buckets: 0 where missing, 1 below zero, 2 + ⌊4 · ln(1 + x)⌋, at most 63.

    Args:
        column: float64[rows], NaN where missing.

    Returns:
        int32[rows].
    """
    with np.errstate(invalid="ignore"):
        bucket = 2 + np.floor(BUCKETS_PER_E_FOLD * np.log1p(np.maximum(column, 0)))
        bucket = np.where(column < 0, 1, np.minimum(bucket, BUCKETS - 1))
    return np.nan_to_num(bucket).astype(np.int32)


def look_up_values(values: Sequence[pa.Array], dictionaries: Dictionaries) -> list[Array]:
    """The ids of a window's distinct values; the out-of-vocabulary id where one is unknown.

    A missing value is the empty string: unknown unless the dictionary gives that an id.

    Args:
        values: The distinct values of ``C1..C26``.
        dictionaries: Knows their ids.

    Returns:
        By column int32[values + 1]: the last id is that of a missing value, which is what code -1
        picks.
    """
    found = dictionaries.table.look_up(values, dictionaries.oov_ids)
    return [np.append(ids, missing) for ids, missing in zip(found, dictionaries.missing_ids)]


class DenseCoding:
    """How dense columns become ids and weights.

    ========== ============================= ==================================================
    transform  field of a value x            field of a missing value
    ========== ============================= ==================================================
    ``minmax`` id of the column, weight      the same with weight 0
               (x − min) / (max − min)
    ``log``    id of the column, weight      an id of the column's own, weight 1
               sign(x) · ln(1 + |x|)
    ``bucket`` id of the column's bucket     id of the column's bucket 0, weight 1
               (``bucket_dense_column``),
               weight 1
    ========== ============================= ==================================================

    The ids that the dictionaries don't have are the last ones of the vocabulary, so that a
    dictionary that has grown leaves them where they are.

    Args:
        transform: One of ``DENSE_TRANSFORMS``.
        dictionaries: Minima, maxima and ids of the columns.
        vocab_size: Rows of the embedding table; of no account for ``minmax``.

    Raises:
        DictionaryError: The ids of the dictionaries and those of the transform don't fit.
    """

    def __init__(self, transform: str, dictionaries: Dictionaries, vocab_size: int) -> None:
        self.transform = transform
        self._dictionaries = dictionaries
        self.end_id = vocab_size - _RESERVED[transform] * DENSE_SIZE
        if transform != "minmax" and dictionaries.vocab_size_needed > self.end_id:
            raise DictionaryError(
                f"the dictionaries need {dictionaries.vocab_size_needed} ids; with "
                f"dense_transform {transform} {self.end_id} of vocab_size {vocab_size} are left"
            )

    @property
    def fingerprint(self) -> int:
        """Unsigned 64-bit number of everything that ids and weights follow from."""
        if self.transform == "minmax":
            return self._dictionaries.fingerprint
        text = f"{self._dictionaries.fingerprint} {self.transform} {self.end_id}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def column(self, column: Array, place: int) -> Array:
        """The column function that ``fields`` makes fields of.

        Args:
            column: float64[rows], NaN where missing.
            place: Which of ``I1..I13``, from 0 on.

        Returns:
            float32[rows] or int32[rows].
        """
        if self.transform == "bucket":
            return bucket_dense_column(column)
        if self.transform == "log":
            return log_dense_column(column)
        name = DENSE_COLUMNS[place]
        low, high = self._dictionaries.min_by_column[name], self._dictionaries.max_by_column[name]
        return scale_dense_column(column, low, high)

    def fields(self, coded: Array) -> tuple[Array, Array]:
        """(ids int32[rows, 13] or [13], weights float[rows, 13]) of the columns coded so."""
        ids = self._dictionaries.dense_ids
        if self.transform == "bucket":
            first = self.end_id + BUCKETS * np.arange(DENSE_SIZE, dtype=np.int32)
            return first + coded.astype(np.int32), np.ones(coded.shape, dtype=np.float32)
        if self.transform == "log":
            missing_ids = self.end_id + np.arange(DENSE_SIZE, dtype=np.int32)
            is_missing = np.isnan(coded)
            return np.where(is_missing, missing_ids, ids), np.where(is_missing, 1, coded)
        return ids, coded


class ColumnFunctions:
    """The column functions of one window, as ``apply(raw=True)`` wants them: one for any column.

    A raw column is an array without a name, so its place among the 39 stands on top of it. The
    named ones that ``apply`` makes otherwise take as long to make as the functions take.

    Args:
        dense: Codes dense columns.
        dictionaries: Ids of the categorical values.
        rows: The rows of the window.
    """

    def __init__(self, dense: DenseCoding, dictionaries: Dictionaries, rows: ParsedRows) -> None:
        self._dense = dense
        self._rows = rows
        self._ids_of_values = look_up_values(rows.values, dictionaries)

    def columns(self) -> Array:
        """What ``column`` is applied to: float64[1 + rows, 39], ``numbers`` and then ``codes``."""
        columns = np.empty((1 + len(self._rows.numbers), FIELD_SIZE), dtype=np.float64, order="F")
        columns[0] = np.arange(FIELD_SIZE)
        columns[1:, :DENSE_SIZE] = self._rows.numbers
        columns[1:, DENSE_SIZE:] = self._rows.codes
        return columns

    def column(self, column: Array) -> Array:
        """What becomes of one of ``columns``: float64[1 + rows], the place still on top of it.

        It holds float32 weights and int32 ids, both exactly.
        """
        made = np.empty_like(column)
        made[0] = column[0]
        place = int(column[0])
        if place < DENSE_SIZE:
            made[1:] = self._dense.column(column[1:], place)
        else:
            made[1:] = self._ids_of_values[place - DENSE_SIZE][column[1:].astype(np.int32)]
        return made


def assemble(dense_weights: Array, categorical_ids: Array, dense_ids: Array) -> tuple[Array, Array]:
    """Puts the two kinds of fields side by side.

    Args:
        dense_weights: float32[rows, 13], or float64 that is exact in it.
        categorical_ids: int32[rows, 26], or float64 that is.
        dense_ids: int32[13] or int32[rows, 13].

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
