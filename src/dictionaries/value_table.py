"""Ids of the known values of all columns; a look-up costs about the same however many are known.

A small Python dict is as fast. In a dict of ten million values each look-up waits for memory five
times or more, one after the other. Here the look-ups of a window wait together, about once each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from src.process.arrays import Array

SHORT_BYTES = 8
"""A value of up to so many bytes fits one number; Criteo's values are 8 hexadecimal digits."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
_LEAST_BITS = 4
_FREE = np.uint64(2**64 - 1)
_ID_BITS = np.uint64(32)
_ID_MASK = np.uint64(2**32 - 1)
_KEY, _TAG = 0, 1


class ValueTable:
    """A hash table of short values, and a dict of the few that are longer.

    It uses open addressing with linear probing and Fibonacci hashing (Knuth, The Art of Computer
    Programming, vol. 3, section 6.4). At most half of the slots are taken. A slot holds the value
    and its tag (column and id) side by side, so one memory access reads both.

    Args:
        values: By column the known values, each once: pyarrow strings without null.
        ids: By column int32[values], not negative.
    """

    def __init__(self, values: Sequence[pa.Array], ids: Sequence[Array]) -> None:
        sizes = [len(known) for known in values]
        self._size = sum(sizes)
        joined = pa.concat_arrays(values)
        keys, is_short = keys_of(joined)
        columns = _columns(sizes)
        tags = columns << _ID_BITS | np.concatenate(ids).astype(np.uint64)
        bits = max(_LEAST_BITS, (2 * self._size - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._slots = self._filled(keys[is_short], tags[is_short])
        self._long_ids = {
            (column, text): tag & int(_ID_MASK)
            for column, text, tag in zip(
                columns[~is_short].tolist(), _texts(joined, ~is_short), tags[~is_short].tolist()
            )
        }

    def __len__(self) -> int:
        return self._size

    def look_up(self, values: Sequence[pa.Array], otherwise: Array) -> list[Array]:
        """The ids of values, in all columns or only the first ones.

        Args:
            values: By column pyarrow strings without null, all of one type.
            otherwise: By column the id of an unknown value, int32[columns].

        Returns:
            By column int32[values].
        """
        sizes = [len(wanted) for wanted in values]
        joined, columns = pa.concat_arrays(values), _columns(sizes)
        keys, is_short = keys_of(joined)
        unknown = otherwise[: len(sizes)].repeat(sizes)
        ids = self._ids_of_keys(keys, columns, unknown)
        if not is_short.all():
            long_values = zip(columns[~is_short].tolist(), _texts(joined, ~is_short))
            found = [self._long_ids.get(pair, -1) for pair in long_values]
            ids[~is_short] = np.where(np.less(found, 0), unknown[~is_short], found)
        return np.split(ids, np.cumsum(sizes)[:-1])

    def _filled(self, keys: Array, tags: Array) -> Array:
        """The slots, uint64[slots, 2].

        Values are placed in the order of their preferred slots. Each takes its preferred slot, or
        the one after its predecessor if that is later. So all values are near their preferred
        slots. The last slot is free.
        """
        preferred = self._first_slots(keys, tags >> _ID_BITS)
        order = np.argsort(preferred, kind="stable")
        number = np.arange(len(order))
        place = np.maximum.accumulate(preferred[order] - number) + number
        least = 2 ** (64 - int(self._shift))
        size = max(least, int(place[-1]) + 1 if place.size else 0) + 1
        slots = np.empty((size, 2), dtype=np.uint64)  # unlike zeros, on large pages where large
        slots[:] = 0, _FREE
        slots[place, _KEY] = keys[order]
        slots[place, _TAG] = tags[order]
        return slots

    def _ids_of_keys(self, keys: Array, columns: Array, unknown: Array) -> Array:
        place = self._first_slots(keys, columns)
        ids = unknown.copy()
        left = np.arange(len(keys))
        while left.size:
            slots = self._slots.take(place, axis=0)
            slot_keys, tags = slots[:, _KEY], slots[:, _TAG]
            is_found = (slot_keys == keys) & (tags >> _ID_BITS == columns)
            ids[left[is_found]] = tags[is_found] & _ID_MASK
            is_left = np.flatnonzero(~is_found & (tags != _FREE))
            place, keys = place[is_left] + 1, keys[is_left]
            columns, left = columns[is_left], left[is_left]
        return ids

    def _first_slots(self, keys: Array, columns: Array) -> Array:
        slots: Array = (spread(keys ^ spread(columns)) >> self._shift).astype(np.int64)
        return slots


def keys_of(values: pa.Array) -> tuple[Array, Array]:
    """Values as numbers.

    Args:
        values: pyarrow strings without null.

    Returns:
        (key uint64[values], is_short bool[values]): a short value's UTF-8 bytes, followed by zeros.
        Different short values have different keys, as a value that holds a NUL is not short.
    """
    if not len(values):
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=bool)
    is_large = pa.types.is_large_string(values.type)
    ends = np.frombuffer(values.buffers()[1], dtype=np.int64 if is_large else np.int32)
    ends = ends[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(values.buffers()[2] or b"", dtype=np.uint8)[ends[0] : ends[-1]]
    lengths = np.diff(ends)
    if (lengths == SHORT_BYTES).all() and data.all():
        return data.view("<u8"), np.ones(len(values), dtype=bool)
    place = (ends[:-1] - ends[0])[:, None] + np.arange(SHORT_BYTES)
    is_inside = np.arange(SHORT_BYTES) < lengths[:, None]
    cells = np.zeros((len(values), SHORT_BYTES), dtype=np.uint8)
    cells[is_inside] = data[place[is_inside]]
    is_short = np.count_nonzero(cells, axis=1) == lengths
    return cells.view("<u8").ravel(), is_short


def spread(keys: Array) -> Array:
    """Fibonacci hashing, uint64[keys]: the upper bits are the hash."""
    return keys * _MULTIPLIER


def _columns(sizes: Sequence[int]) -> Array:
    """The column of each value, uint64[values]."""
    return np.arange(len(sizes), dtype=np.uint64).repeat(sizes)


def _texts(values: pa.Array, is_wanted: Array) -> list[str]:
    texts: list[str] = values.filter(pa.array(is_wanted)).to_pylist()
    return texts
