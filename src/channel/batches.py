"""Cuts batches out of windows and finds the rows of the stream that each batch covers.

The fixed costs are paid once for several batches. Their rows become columns in one copy, and a
batch is slices of those columns. The covered rows are found for all of them together. More batches
are not taken at once: the columns of ten thousand rows fit no cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.process.arrays import Array
from src.stream.position import Position, RowRange, advance_over, ranges_of_batches

Columns = Mapping[str, Array]
"""Rows by field: some fields of ``window.window_dtype``, each an array of its own."""

FILLER_LABEL = -1.0
"""The label of a row that only fills a batch up: the network learns nothing from it."""

ROWS_AT_ONCE = 1_000
"""So many rows of small batches are copied at once."""
BATCHES_AT_ONCE = 4
"""So many large batches are."""

# These are equal in all rows of a window, or serve only to find gaps.
_FIELDS_OF_NO_BATCH = ("session", "dictionaries", "dense_transform", "start")


@dataclass(frozen=True, eq=False)
class CutBatch:
    """A batch's rows and where they come from; a batch that was closed by time has fewer.

    Attributes:
        columns: Its rows; views of columns that it shares with other batches.
        position: The position after it.
        ranges: Its rows, by partition, over all shards.
        newest_timestamp: When the newest of its messages was sent, ms since 1970.
    """

    columns: Columns
    position: Position
    ranges: list[RowRange]
    newest_timestamp: int


class BatchCutter:
    """Holds rows until they make a batch.

    Args:
        batch_size: Rows per batch.
        position: The position before the first row.

    Attributes:
        rows: How many rows it holds.
    """

    def __init__(self, batch_size: int, position: Position) -> None:
        self.batch_size = batch_size
        self.rows = 0
        self._position = position
        self._waiting: deque[tuple[Array, float]] = deque()

    @property
    def oldest_since(self) -> float:
        """When the oldest row held came; there must be one."""
        return self._waiting[0][1]

    def add(self, rows: Array, came_at: float = 0.0) -> None:
        """Adds rows of a window, after those added before.

        Args:
            rows: A structured array[rows], at least one.
            came_at: When they came, for ``oldest_since``.
        """
        self._waiting.append((rows, came_at))
        self.rows += len(rows)

    def cut(self) -> list[CutBatch]:
        """The next whole batches of the rows held, in stream order; may be none."""
        most = max(BATCHES_AT_ONCE, ROWS_AT_ONCE // self.batch_size)
        count = min(self.rows // self.batch_size, most)
        return self._batches(count, self.batch_size) if count else []

    def cut_part(self, rows: int) -> CutBatch:
        """The oldest so many of the rows held, as a batch that is not full."""
        (part,) = self._batches(1, rows)
        return part

    def _take(self, rows: int) -> list[Array]:
        """The oldest rows held, as one slice of each window they come from."""
        self.rows -= rows
        taken = []
        while rows:
            window, came_at = self._waiting.popleft()
            if len(window) > rows:
                self._waiting.appendleft((window[rows:], came_at))
            taken.append(window[:rows])
            rows -= len(taken[-1])
        return taken

    def _batches(self, count: int, size: int) -> list[CutBatch]:
        columns = _columns(self._take(count * size))
        partition = columns["partition"].reshape(count, -1)
        covered = ranges_of_batches(partition, columns["offset"].reshape(count, -1))
        last_partitions = partition[:, -1].tolist()
        newest = columns["timestamp"].reshape(count, size).max(axis=1).tolist()
        batches = []
        for number, ranges in enumerate(covered):
            self._position = advance_over(self._position, ranges, last_partitions[number])
            rows = slice(number * size, (number + 1) * size)
            part = {name: column[rows] for name, column in columns.items()}
            batches.append(CutBatch(part, self._position, ranges, newest[number]))
        return batches


def filled_up(parts: Sequence[Array], batch_size: int) -> tuple[Array, ...]:
    """A batch with filler rows behind its own, where it is not full.

    Fillers repeat the batch's rows, so the network sees no id that is not in the batch.

    Args:
        parts: (id, weight, label, …), each array[rows, …].
        batch_size: The rows that the network takes.

    Returns:
        The same parts, array[batch_size, …] each.
    """
    rows = len(parts[0])
    if rows == batch_size:
        return tuple(parts)
    ids, weight, label, *others = (np.resize(part, (batch_size, *part.shape[1:])) for part in parts)
    label[rows:] = FILLER_LABEL
    return (ids, weight, label, *others)


def _columns(parts: Sequence[Array]) -> Columns:
    """Rows of several windows, copied; ``value`` gets the width of the widest."""
    names = parts[0].dtype.names
    assert names is not None, "a window is a structured array"
    kept = [name for name in names if name not in _FIELDS_OF_NO_BATCH]
    return {name: np.concatenate([part[name] for part in parts]) for name in kept}
