"""Which bad rows were met before."""

from __future__ import annotations

from collections.abc import Sequence


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
