"""The consumer says where no row follows the last one sent, for the trainer's position to cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

from src.stream.position import Stretch
from src.stream.row_source import RowSource

PUBLISH_SECONDS = 1.0


class EmptyStretches:
    """Publishes stretches of offsets that were read and hold no row.

    They hold bad rows, which are safe by then, markers of transactions, rows of aborted ones, or
    nothing. Rows that are held for the next window are no part of them.

    Args:
        source: Knows what was read, and publishes.
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, source: RowSource, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._published: Mapping[int, Stretch] = {}
        self._at = clock()

    def publish(self, row_offsets: Mapping[int, int]) -> None:
        """Publishes what is new, at most once a second.

        Args:
            row_offsets: Partition → the offset after its last row sent.
        """
        now = self._clock()
        if now - self._at < PUBLISH_SECONDS:
            return
        self._at = now
        found = {
            number: (row_offsets[number], end)
            for number, end in self._source.fetched_until().items()
            if row_offsets.get(number, end) < end
        }
        stretches = {**self._published, **found}
        if stretches != self._published and self._source.try_publish_empty(stretches):
            self._published = stretches
