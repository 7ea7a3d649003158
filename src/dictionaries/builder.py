"""Builds the three dictionaries from blocks of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from src.dictionaries.dictionaries import OOV_TOKENS, Dictionaries
from src.dictionaries.errors import DictionaryError
from src.dictionaries.value_counts import MOST_HELD, FrequentValues, RunFile, ValueCounter
from src.process.files import PathLike
from src.rows.criteo import CATEGORICAL_COLUMNS, CATEGORICAL_SIZE, DENSE_COLUMNS, FIELD_SIZE, LABEL

DEFAULT_MIN_COUNT = 6
DEFAULT_VOCAB_SIZE = 200_000


class DictionaryBuilder:
    """Builds dictionaries from blocks of rows.

    The result depends on the rows alone, not on their order nor on their division into blocks.
    Memory use does not grow with the number of rows, see ``value_counts``. ``close`` it when done.

    Args:
        folder: Takes counts that are too many for memory, until ``close``.
        most_held: See ``ValueCounter``.

    Attributes:
        rows: Rows counted.
        clicks: Those of them with label 1.
        known_cells: Rows by ``C1 … C26`` whose value got an id; 0 before ``finish``.
    """

    def __init__(self, folder: PathLike, most_held: int = MOST_HELD) -> None:
        self.rows = 0
        self.clicks = 0
        self.known_cells = [0] * CATEGORICAL_SIZE
        # Both start at 0, as in the original example. So a column without negative values has
        # minimum 0, and its smallest value keeps a weight above 0.
        self._max_by_column = dict.fromkeys(DENSE_COLUMNS, 0.0)
        self._min_by_column = dict.fromkeys(DENSE_COLUMNS, 0.0)
        self._run_file = RunFile(folder)
        self._counters = {
            column: ValueCounter(self._run_file, most_held) for column in CATEGORICAL_COLUMNS
        }

    def add(self, block: pa.Table | pa.RecordBatch) -> None:
        """Counts a block of rows.

        Args:
            block: Has the columns ``label`` (0 or 1), ``I1 … I13`` (numbers) and ``C1 … C26``
                (strings, plain or dictionary-encoded); null is missing and is not counted.

        Raises:
            OSError: There is no room on the disk.
        """
        self.rows += block.num_rows
        self.clicks += pc.sum(block.column(LABEL)).as_py() or 0
        for column in DENSE_COLUMNS:
            bounds = pc.min_max(block.column(column)).as_py()
            if bounds["max"] is not None:
                self._max_by_column[column] = max(self._max_by_column[column], bounds["max"])
                self._min_by_column[column] = min(self._min_by_column[column], bounds["min"])
        for column, counter in self._counters.items():
            counter.add(block.column(column))

    def close(self) -> None:
        """Frees the disk space."""
        self._run_file.close()

    def finish(
        self,
        min_count: int = DEFAULT_MIN_COUNT,
        vocab_size: int = DEFAULT_VOCAB_SIZE,
        keep_most_frequent: bool = False,
    ) -> Dictionaries:
        """Assigns ids to the tokens.

        First come the 13 dense and the 26 out-of-vocabulary tokens, then the values by column.
        Within a column the most frequent come first, equally frequent ones by their UTF-8 bytes.

        Args:
            min_count: A value gets an id if it occurs more often than this.
            vocab_size: The largest number of ids.
            keep_most_frequent: If there are too many values, keep the most frequent ones of all
                columns together (of equally frequent ones the first in the order above).

        Raises:
            DictionaryError: The ids do not fit and ``keep_most_frequent`` is not set.
            OSError: There is no room on the disk.
        """
        most = max(0, vocab_size - FIELD_SIZE)
        frequent = [counter.most_frequent(min_count, most) for counter in self._counters.values()]
        kept = _kept_sizes(frequent, min_count, vocab_size, keep_most_frequent)
        self.known_cells = [int(column.counts[:size].sum()) for column, size in zip(frequent, kept)]
        tokens = [*DENSE_COLUMNS, *OOV_TOKENS]
        for name, column, size in zip(CATEGORICAL_COLUMNS, frequent, kept):
            tokens.extend(f"{name}_{value}" for value in column.values[:size].to_pylist())
        id_by_token = {token: number for number, token in enumerate(tokens)}
        bounds = [
            {column: float(bound) for column, bound in by_column.items()}
            for by_column in (self._max_by_column, self._min_by_column)
        ]
        return Dictionaries(bounds[0], bounds[1], id_by_token)


def _kept_sizes(
    frequent: Sequence[FrequentValues], min_count: int, vocab_size: int, keep_most_frequent: bool
) -> list[int]:
    """How many of each column's values (most frequent first) get an id."""
    total = sum(column.total for column in frequent)
    sizes = [len(column.counts) for column in frequent]
    if FIELD_SIZE + total <= vocab_size:
        return sizes
    if vocab_size < FIELD_SIZE or not keep_most_frequent:
        raise DictionaryError(
            f"{FIELD_SIZE + total} ids are needed ({FIELD_SIZE} fixed ones and {total} values seen "
            f"more than {min_count} times) and vocab_size is {vocab_size}: raise vocab_size or "
            "min_count, or keep only the most frequent values"
        )
    counts = np.concatenate([column.counts for column in frequent])
    column_of_value = np.repeat(np.arange(CATEGORICAL_SIZE), sizes)
    kept = column_of_value[np.argsort(-counts, kind="stable")[: vocab_size - FIELD_SIZE]]
    return [int(size) for size in np.bincount(kept, minlength=CATEGORICAL_SIZE)]
