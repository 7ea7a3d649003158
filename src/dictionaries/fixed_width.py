"""Arrow's strings as NumPy strings of one width, without a Python object for each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from src.process.arrays import Array

_AT_ONCE = 1 << 14


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
