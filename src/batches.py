"""Cuts batches out of windows and says of each which rows of the stream it covers.

What a window costs is paid once for all of its batches: its fields become columns in one copy, a
batch is slices of them, and what the batches cover is found for all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.arrays import Array
from src.position import Position, RowRange, advance_over, ranges_of_batches

Columns = Mapping[str, Array]
"""Rows by field: some fields of ``window.window_dtype``, each an array of its own."""

# The same in all of a window, or of use only to whoever looks for gaps.
_FIELDS_OF_NO_BATCH = ("session", "dictionaries", "dense_transform", "start")


@dataclass(frozen=True, eq=False)
class CutBatch:
    """A batch's rows and where they come from.

    Attributes:
        columns: Its rows; views of columns that other batches are cut from as well.
        position: The position behind it.
        ranges: The rows in it, by partition, over all shards.
        newest_timestamp: When the newest of their messages was sent, ms since 1970.
    """

    columns: Columns
    position: Position
    ranges: list[RowRange]
    newest_timestamp: int


class BatchCutter:
    """Holds rows until there is a batch of them.

    Args:
        batch_size: Rows a batch.
        position: The position before the first row.

    Attributes:
        rows: How many it holds.
    """

    def __init__(self, batch_size: int, position: Position) -> None:
        self.batch_size = batch_size
        self.rows = 0
        self._position = position
        self._waiting: list[Columns] = []

    def add(self, rows: Array) -> None:
        """Takes rows of a window, a structured array[rows]; they follow those taken before."""
        names = rows.dtype.names
        assert names is not None, "a window is a structured array"
        self._waiting.append(
            {name: rows[name] for name in names if name not in _FIELDS_OF_NO_BATCH}
        )
        self.rows += len(rows)

    def cut(self) -> list[CutBatch]:
        """All whole batches of the rows held, in stream order; the rest stays."""
        count = self.rows // self.batch_size
        if not count:
            return []
        columns = _joined(self._waiting)
        end = count * self.batch_size
        rest = {name: column[end:] for name, column in columns.items()}
        self.rows -= end
        self._waiting = [rest] if self.rows else []
        return self._batches({name: column[:end] for name, column in columns.items()}, count)

    def _batches(self, columns: Columns, count: int) -> list[CutBatch]:
        size = self.batch_size
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


def _joined(parts: Sequence[Columns]) -> Columns:
    """Rows of several windows, copied; a ``value`` gets as wide as the widest needs."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
