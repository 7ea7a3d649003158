"""Categorical values as 64-bit keys, and as strings of one width."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from src.dictionaries.oov import MAX_VALUE_BYTES
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE

WORD_BYTES = 8
_AT_ONCE = 1 << 14


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


def fixed_width(values: pa.Array, most_bytes: int) -> tuple[Array, Array]:
    """Values as NumPy strings.

    Args:
        values: pyarrow strings or bytes; null becomes empty.
        most_bytes: Longer values are left out.

    Returns:
        (S[values], bool[values]: whether it is the whole value). A longer value is empty. One that
        ends with a NUL is not whole either, as NumPy cuts it off.
    """
    is_large = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    ends = np.frombuffer(values.buffers()[1] or b"", dtype=np.int64 if is_large else np.int32)
    ends = ends[values.offset : values.offset + len(values) + 1].astype(np.int64)
    data = np.frombuffer(values.buffers()[2] or b"", dtype=np.uint8)
    starts: Array = ends[:-1]
    lengths = np.diff(ends)
    is_whole = lengths <= most_bytes
    width = max(int(lengths[is_whole].max(initial=1)), 1)
    cells = np.zeros((len(values), width), dtype=np.uint8)
    for begin in range(0, len(values), _AT_ONCE):
        rows = slice(begin, begin + _AT_ONCE)
        here = lengths[rows, None]
        is_inside = (np.arange(width) < here) & is_whole[rows, None]
        places = starts[rows, None] + np.arange(width)
        cells[rows][is_inside] = data[places[is_inside]]
    last = cells[np.arange(len(values)), np.clip(lengths, 1, width) - 1]
    is_whole &= (last != 0) | (lengths == 0)
    return cells.view(f"S{width}").ravel(), is_whole
