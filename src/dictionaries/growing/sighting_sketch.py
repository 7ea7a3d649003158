"""How often a value was seen, in a fixed amount of memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.process.arrays import Array

_SKETCH_DEPTH = 2
_SKETCH_WIDTHS = (1 << 14, 1 << 22)


class SightingSketch:
    """Counts sightings of any number of keys in a fixed amount of memory; it never undercounts.

    A count-min sketch of two generations of saturating bytes. When the younger generation has
    covered ``generation_rows`` rows, it replaces the older one, whose counts are dropped.

    Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch", 2005.

    Args:
        generation_rows: Rows that a generation covers.
    """

    def __init__(self, generation_rows: int) -> None:
        low, high = _SKETCH_WIDTHS
        width = min(max(1 << (2 * generation_rows - 1).bit_length(), low), high)
        self.generation_rows = generation_rows
        self.rows = 0
        self.counts: Array = np.zeros((2, _SKETCH_DEPTH, width), dtype=np.uint8)

    def count(self, keys: Array) -> Array:
        """How often each key was seen, int64[n]; too high where keys collide."""
        places = self._places(keys)
        young = [self.counts[0, depth, place] for depth, place in enumerate(places)]
        old = [self.counts[1, depth, place] for depth, place in enumerate(places)]
        counted: Array = np.minimum(*young).astype(np.int64) + np.minimum(*old)
        return counted

    def add(self, keys: Array, times: Array) -> None:
        """Adds sightings of distinct keys."""
        for counts, places in zip(self.counts[0], self._places(keys)):
            distinct, sums = places, times
            in_order = np.sort(places)
            if (in_order[1:] == in_order[:-1]).any():
                # Sum up first: of two keys with the same place only the last would count.
                distinct, inverse = np.unique(places, return_inverse=True)
                sums = np.bincount(inverse, weights=times)
            counts[distinct] = np.minimum(counts[distinct] + sums, 255).astype(np.uint8)

    def advance(self, rows: int) -> None:
        """Counts rows; a generation that has covered its rows becomes the older one."""
        self.rows += rows
        if self.rows >= self.generation_rows:
            self.rows = 0
            self.counts[1] = self.counts[0]
            self.counts[0] = 0

    def _places(self, keys: Array) -> Sequence[Array]:
        width = self.counts.shape[2]
        return (
            (keys & np.uint64(width - 1)).astype(np.int64),
            ((keys >> np.uint64(32)) & np.uint64(width - 1)).astype(np.int64),
        )
