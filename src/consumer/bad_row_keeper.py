"""What the consumer does with bad rows: it logs, counts and keeps each of them once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Callable

from src.consumer.counts import ConsumerCounts
from src.dead_letters.bad_rows import OffsetRanges
from src.dead_letters.dead_letters import DeadLetter
from src.process.arrays import Array
from src.rows.bad_rows import BadRowGuard
from src.stream.position import Position

logger = logging.getLogger(__name__)

LOGGED_BAD_ROWS = 10


class BadRowKeeper:
    """Logs, counts and keeps bad rows, each once, and stops when there are too many.

    After a rewind the consumer reads rows again that it has already released. The bad ones among
    them are skipped.

    Args:
        keep_dead_letters: Called with the bad rows; returns when they are safe.
        guard: Observes every released row.
        counts: Its ``bad_rows`` is increased.
    """

    def __init__(
        self,
        keep_dead_letters: Callable[[Sequence[DeadLetter]], None],
        guard: BadRowGuard,
        counts: ConsumerCounts,
    ) -> None:
        self._keep_dead_letters = keep_dead_letters
        self._guard = guard
        self._counts = counts
        self._start: dict[int, int] = {}
        self._kept: dict[int, OffsetRanges] = {}

    def begin(self, position: Position) -> None:
        """Starts at a position, whatever was read before."""
        self._guard.reset()
        self._start = dict(position.offsets)

    def keep(self, bad: Sequence[DeadLetter], good: Array, ends: Mapping[int, int]) -> None:
        """Takes the next released rows.

        Args:
            bad: The bad rows among them.
            good: bool[rows], which rows are good, in stream order.
            ends: Partition → the offset after its last row among them.

        Raises:
            BrokenFeedError: Too many of the last rows are bad.
        """
        kept = {part: self._kept.setdefault(part, OffsetRanges()) for part in ends}
        fresh = [row for row in bad if row.offset not in kept[row.partition]]
        if fresh:
            _log_bad_rows(fresh)
            self._keep_dead_letters(fresh)
            self._counts.bad_rows += len(fresh)
        for part, end in ends.items():
            kept[part].add(self._start[part], end)
        self._guard.observe(good)


def _log_bad_rows(rows: Sequence[DeadLetter]) -> None:
    for row in rows[:LOGGED_BAD_ROWS]:
        logger.warning(
            "bad row: partition %d, offset %d, %s: %s",
            row.partition,
            row.offset,
            row.column,
            row.reason,
        )
    if len(rows) > LOGGED_BAD_ROWS:
        columns = Counter(row.column for row in rows[LOGGED_BAD_ROWS:])
        more = sum(columns.values())
        logger.warning("and %d more bad rows, by column: %s", more, dict(columns))
