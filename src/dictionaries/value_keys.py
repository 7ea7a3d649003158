"""Categorical values as 64-bit keys."""

from __future__ import annotations

import numpy as np

from src.dictionaries.oov import MAX_VALUE_BYTES
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE

WORD_BYTES = 8


def mixed(keys: Array) -> Array:
    """Spreads the bits of 64-bit keys, one to one: the finaliser of SplitMix64."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    spread: Array = keys ^ (keys >> np.uint64(31))
    return spread


_FACTORS = mixed(np.arange(1, MAX_VALUE_BYTES // WORD_BYTES + 1, dtype=np.uint64)) | np.uint64(1)
_COLUMN_SALT = mixed(np.arange(101, 101 + CATEGORICAL_SIZE, dtype=np.uint64))


def value_keys(columns: Array, values: Array) -> Array:
    """A 64-bit key for each (column, value).

    Values of up to eight bytes never collide within a column. Any two others do with probability
    2^-64.

    Args:
        columns: int[n], 0 for C1 … 25 for C26.
        values: S[n], the values' UTF-8 bytes.

    Returns:
        uint64[n], the same whatever the width of ``values``.
    """
    width = -(-max(values.dtype.itemsize, 1) // WORD_BYTES) * WORD_BYTES
    words = np.ascontiguousarray(values.astype(f"S{width}")).view("<u8")
    words = words.reshape(len(values), width // WORD_BYTES)
    summed = (words * _FACTORS[: words.shape[1]]).sum(axis=1, dtype=np.uint64)
    return mixed(summed ^ _COLUMN_SALT[columns])
