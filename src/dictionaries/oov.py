"""Which categorical fields of a row are out of vocabulary (OOV), one bit for each field.

The values themselves are sent along if a trainer is to learn them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_SIZE

MAX_VALUE_BYTES = 64
UNLEARNABLE = b"\xff"
"""Sent instead of a value that is too long; it is not UTF-8, so no value equals it."""
_BITS = 1 << np.arange(CATEGORICAL_SIZE, dtype=np.uint32)


@dataclass(frozen=True)
class UnknownValues:
    """What a trainer needs to learn the values that the dictionaries lack.

    Attributes:
        values: S[rows, 26], see ``oov.unknown_values_of_column``.
        free_ids: (first, end) of the ids that may be assigned to them.
    """

    values: Array
    free_ids: tuple[int, int]


def oov_bits(ids: Array, oov_ids: Array) -> Array:
    """Which categorical fields are out of vocabulary; a missing value is, unless it has an id.

    Args:
        ids: int32[rows, 39].
        oov_ids: int32[26], the out-of-vocabulary ids of ``C1..C26``.

    Returns:
        uint32[rows]; bit 0 is C1's, bit 25 that of C26.
    """
    return bits_of_cells(ids[:, DENSE_SIZE:] == oov_ids)


def bits_of_cells(cells: Array) -> Array:
    """bool[rows, 26] → uint32[rows], bit 0 for C1."""
    bits: Array = np.where(cells, _BITS, 0).sum(axis=1, dtype=np.uint32)
    return bits


def oov_cells(bits: Array) -> Array:
    """The cells of ``oov_bits``: bool[rows, 26]."""
    cells: Array = (bits[:, None] & _BITS) != 0
    return cells


def count_oov(bits: Array) -> Array:
    """The rows out of vocabulary in each of ``C1..C26``, int64[26], from ``oov_bits``."""
    counts: Array = np.count_nonzero(bits[:, None] & _BITS, axis=0)
    return counts


def unknown_values_of_column(codes: Array, values: pa.Array, is_unknown: Array) -> Array:
    """The values out of vocabulary, in the form in which a trainer receives them.

    Args:
        codes: int32[rows], the place of each row's value in ``values``, -1 where missing.
        values: The distinct values of the window.
        is_unknown: bool[rows].

    Returns:
        S[rows]: UTF-8 where unknown, empty where known or missing. ``UNLEARNABLE`` replaces a value
        of more than 64 bytes, or one that ends with a NUL, which fixed width would cut off.
    """
    is_wanted = np.zeros(len(values) + 1, dtype=bool)
    is_wanted[codes[is_unknown]] = True
    is_wanted[-1] = False  # code -1, a missing value
    wanted = np.flatnonzero(is_wanted)
    texts = values.take(pa.array(wanted)).to_pylist()
    encoded = np.array([b"", *map(_encoded, texts)], dtype=np.bytes_)
    place = np.zeros(len(values) + 1, dtype=np.int64)
    place[wanted] = np.arange(1, len(wanted) + 1)
    sent: Array = encoded[place[codes]]
    return sent


def _encoded(value: str) -> bytes:
    encoded = value.encode()
    is_whole = len(encoded) <= MAX_VALUE_BYTES and not encoded.endswith(b"\0")
    return encoded if is_whole else UNLEARNABLE
