"""The dense transforms: how dense columns become ids and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial

import numpy as np

from src.dictionaries.dictionaries import Dictionaries
from src.dictionaries.errors import DictionaryError
from src.features.column_functions import (
    BUCKETS,
    ColumnFunction,
    bucket_dense_column,
    log_dense_column,
    scale_dense_column,
)
from src.process.arrays import Array
from src.rows.criteo import DENSE_COLUMNS, DENSE_SIZE

DENSE_TRANSFORMS = ("minmax", "log", "bucket")
_RESERVED_IDS = {"minmax": 0, "log": 1, "bucket": BUCKETS}
"""Ids that a transform needs for each column besides the column's own."""


class DenseCoding:
    """How dense columns become ids and weights.

    ========== ============================= ==================================================
    transform  field of a value x            field of a missing value
    ========== ============================= ==================================================
    ``minmax`` id of the column, weight      the same with weight 0
               (x − min) / (max − min),
               at least 0 and at most 1
    ``log``    id of the column, weight      an id of the column's own, weight 1
               sign(x) · ln(1 + |x|)
    ``bucket`` id of the column's bucket     id of the column's bucket 0, weight 1
               (``bucket_dense_column``),
               weight 1
    ========== ============================= ==================================================

    Weights are bounded, whatever x is: that of ``log`` by 43.7 = ln(2⁶³), as x is an integer of 64
    bits.

    The ids that the dictionaries lack are the last ones of the vocabulary. A dictionary that grows
    leaves them unchanged.

    Args:
        transform: One of ``DENSE_TRANSFORMS``.
        dictionaries: Minima, maxima and ids of the columns.
        vocab_size: Rows of the embedding table; 0 where it is not known, for ``minmax`` only.

    Attributes:
        functions: By ``I1..I13``, the column function whose results ``fields`` takes.
        end_id: The ids from here on belong to the transform.

    Raises:
        DictionaryError: The ids of the dictionaries and those of the transform don't fit.
    """

    def __init__(self, transform: str, dictionaries: Dictionaries, vocab_size: int) -> None:
        self.transform = transform
        self._dictionaries = dictionaries
        self.functions = _functions(transform, dictionaries)
        self.end_id = vocab_size - _RESERVED_IDS[transform] * DENSE_SIZE
        if transform == "minmax" and 0 < vocab_size < dictionaries.vocab_size_needed:
            raise DictionaryError(
                f"the dictionaries need {dictionaries.vocab_size_needed} ids, vocab_size is "
                f"{vocab_size}: give consumer and trainer a larger --vocab_size"
            )
        if transform != "minmax" and dictionaries.vocab_size_needed > self.end_id:
            raise DictionaryError(
                f"the dictionaries need {dictionaries.vocab_size_needed} ids; with "
                f"dense_transform {transform} {self.end_id} of vocab_size {vocab_size} are left"
            )

    @property
    def fingerprint(self) -> int:
        """Unsigned 64-bit number of everything that determines ids and weights."""
        if self.transform == "minmax":
            return self._dictionaries.fingerprint
        text = f"{self._dictionaries.fingerprint} {self.transform} {self.end_id}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def fields(self, coded: Array) -> tuple[Array, Array]:
        """(ids int32[rows, 13] or [13], weights float[rows, 13]).

        Args:
            coded: [rows, 13], the dense columns after their ``functions``.
        """
        ids = self._dictionaries.dense_ids
        if self.transform == "bucket":
            first = self.end_id + BUCKETS * np.arange(DENSE_SIZE, dtype=np.int32)
            return first + coded.astype(np.int32), np.ones(coded.shape, dtype=np.float32)
        if self.transform == "log":
            missing_ids = self.end_id + np.arange(DENSE_SIZE, dtype=np.int32)
            is_missing = np.isnan(coded)
            return np.where(is_missing, missing_ids, ids), np.where(is_missing, 1, coded)
        return ids, coded


def _functions(transform: str, dictionaries: Dictionaries) -> Mapping[str, ColumnFunction]:
    if transform == "bucket":
        return dict.fromkeys(DENSE_COLUMNS, bucket_dense_column)
    if transform == "log":
        return dict.fromkeys(DENSE_COLUMNS, log_dense_column)
    low, high = dictionaries.min_by_column, dictionaries.max_by_column
    return {
        column: partial(scale_dense_column, minimum=low[column], maximum=high[column])
        for column in DENSE_COLUMNS
    }
