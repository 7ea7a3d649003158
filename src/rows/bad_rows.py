"""Bad rows: when there are too many of them, and what is said of those in a file."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from src.process.arrays import Array
from src.process.flags import number_flag
from src.rows.criteo import BadRow
from src.rows.opened_file import RowFileError

logger = logging.getLogger(__name__)

GUARDED_ROWS = 10_000
DEFAULT_MAX_BAD_FRACTION = 0.05
MAX_LOGGED_BAD_ROWS = 10


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


class BadLines:
    """The bad lines of a file: the first ten are logged, all are counted, too many are refused.

    Args:
        name: The file.
        guard: Observes every line; None for as many bad ones as there are.

    Attributes:
        name: The file.
        count: How many there were.
    """

    def __init__(self, name: str, guard: BadRowGuard | None = None) -> None:
        self.count = 0
        self.name = name
        self._guard = guard
        self._unnamed: Counter[str] = Counter()

    def observe(self, first: int, lines: int, bad: Sequence[BadRow]) -> None:
        """Takes the next lines.

        Args:
            first: The first one's number in the file, from 1 on.
            lines: How many there are.
            bad: The bad ones, by their place among these lines.

        Raises:
            RowFileError: Too many of the last lines are bad.
        """
        named = max(MAX_LOGGED_BAD_ROWS - self.count, 0)
        for row in bad[:named]:
            line = first + row.index
            logger.warning("bad row: %s:%d, %s: %s", self.name, line, row.column, row.reason)
        self._unnamed.update(row.column for row in bad[named:])
        self.count += len(bad)
        if self._guard is not None:
            good = np.ones(lines, dtype=bool)
            good[[row.index for row in bad]] = False
            try:
                self._guard.observe(good)
            except BrokenFeedError as error:
                raise RowFileError(f"{self.name}: {error}") from None

    def sum_up(self) -> None:
        """Logs how many there were besides those named."""
        if self._unnamed:
            more, by_column = sum(self._unnamed.values()), dict(self._unnamed)
            logger.warning("%s: and %d more bad rows, by column: %s", self.name, more, by_column)


def add_bad_rows_flag(parser: argparse.ArgumentParser) -> None:
    """Adds ``--max_bad_fraction``, with the consumer's meaning and default."""
    parser.add_argument(
        "--max_bad_fraction",
        type=_share,
        default=DEFAULT_MAX_BAD_FRACTION,
        metavar="SHARE",
        help="largest share of bad rows in the last 10,000; above it the script stops "
        "(%(default)s)",
    )


def _share(text: str) -> float:
    share = number_flag(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return share
