"""Bad rows: when the feed itself is broken, and which of them were met before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.process.arrays import Array

GUARDED_ROWS = 10_000


class BrokenFeedError(RuntimeError):
    """Too many of the last rows are bad; one line says how many and what is allowed."""


class BadRowGuard:
    """Stops a stream in which too many of the last rows are bad.

    The limit is a number of bad rows: ``max_fraction * rows``. It stays the same while the guard
    has seen fewer than ``rows`` rows.

    Args:
        max_fraction: The share of the last rows that may be bad, 0 to 1.
        rows: How many of the last rows are counted.
    """

    def __init__(self, max_fraction: float, rows: int = GUARDED_ROWS) -> None:
        self._max_fraction = max_fraction
        self._rows = rows
        self.reset()

    def reset(self) -> None:
        """Forgets the rows seen."""
        self._last_bad: Array = np.zeros(0, dtype=bool)

    def observe(self, good: Array) -> None:
        """Counts the next rows.

        Args:
            good: bool[rows], in stream order.

        Raises:
            BrokenFeedError: Too many rows are bad, counted back from one of these rows.
        """
        bad = np.concatenate((self._last_bad, ~good))
        until = np.concatenate(([0], np.cumsum(bad)))
        end = np.arange(len(self._last_bad), len(bad)) + 1
        bad_among_last = until[end] - until[np.maximum(end - self._rows, 0)]
        # The quotient is rounded like the flag's value: 3 / 10000 is not above 3e-4.
        too_many = np.flatnonzero(bad_among_last / self._rows > self._max_fraction)
        self._last_bad = bad[-self._rows :]
        if too_many.size:
            first = too_many[0]
            raise BrokenFeedError(
                f"a broken feed: {bad_among_last[first]} of the last "
                f"{min(end[first], self._rows):,} rows are bad, allowed is a share of "
                f"{self._max_fraction:g} of {self._rows:,} rows (--max_bad_fraction)"
            )


class OffsetRanges:
    """Offsets of a partition, kept as ranges: memory grows with the gaps, not with the offsets."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    @property
    def ranges(self) -> Sequence[tuple[int, int]]:
        """The ranges (first, one after the last), ascending, with gaps between them."""
        return tuple(self._ranges)

    def __contains__(self, offset: int) -> bool:
        return any(begin <= offset < end for begin, end in self._ranges)

    def add(self, begin: int, end: int) -> None:
        """Adds the offsets from ``begin`` up to, but not including, ``end``."""
        if begin >= end:
            return
        apart = []
        for other_begin, other_end in self._ranges:
            if other_end < begin or other_begin > end:
                apart.append((other_begin, other_end))
            else:
                begin, end = min(begin, other_begin), max(end, other_end)
        self._ranges = sorted([*apart, (begin, end)])
