"""What has moved since the last version: the rows of each table, and the ids of values.

Everything here runs between two steps, so it must be quick. What was taken for a version that could
not be written is put back, and is part of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from src.dictionaries.growth import Growth
from src.dictionaries.vocabulary import Change
from src.process.arrays import Array
from src.publishing.version_format import Contents, DictionaryTables, VocabularyChange

TABLES_OF_IDS = ("wide_weight", "embedding_table")
"""They have a row for each id."""
CROSSES = "cross_weight"
ROW_NUMBER_BYTES = 4
COMPARED_AT_ONCE = 1 << 22

Weights = Callable[[], Mapping[str, Array]]
"""Returns the arrays of a model by name, as they are now; they may be views of its own memory."""


class MovedRows(Protocol):
    """Knows which rows of a table have moved."""

    def start(self, table: Array) -> None:
        """From now on rows are counted as moved if they are not as in this table."""

    def note(self, rows: Array) -> None:
        """These rows may have moved."""

    def take(self, table: Array) -> Array:
        """int32[n], ascending: the rows that have moved since ``start`` or ``take``."""

    def put_back(self, rows: Array) -> None:
        """Makes rows that were taken part of the next ``take``."""


class NotedRows:
    """Rows that training has touched; it costs one byte per row and next to no time.

    Args:
        size: Rows of the table.
    """

    def __init__(self, size: int) -> None:
        self._is_moved = np.zeros(size, dtype=bool)

    def start(self, table: Array) -> None:
        """See ``MovedRows``."""
        self._is_moved[:] = False

    def note(self, rows: Array) -> None:
        """See ``MovedRows``."""
        self._is_moved[rows] = True

    def take(self, table: Array) -> Array:
        """See ``MovedRows``."""
        rows = np.flatnonzero(self._is_moved).astype(np.int32)
        self._is_moved[rows] = False
        return rows

    def put_back(self, rows: Array) -> None:
        """See ``MovedRows``."""
        self._is_moved[rows] = True


class ComparedRows:
    """Finds moved rows by comparing a table with a copy of it as it was.

    It costs the memory of the table. It needs to know of no id, so it also finds what other ranks
    or an operator have moved. Four million numbers take 2 ms.
    """

    def __init__(self) -> None:
        self._copy: Array | None = None
        self._again: list[Array] = []

    def start(self, table: Array) -> None:
        """See ``MovedRows``."""
        if self._copy is None or self._copy.shape != table.shape:
            self._copy = table.copy()
        else:
            self._copy[:] = table
        self._again = []

    def note(self, rows: Array) -> None:
        """See ``MovedRows``; not needed here."""

    def take(self, table: Array) -> Array:
        """See ``MovedRows``."""
        copy = self._copy
        assert copy is not None, "it was started"
        at_once = max(COMPARED_AT_ONCE // max(table[:1].size, 1), 1)
        found = []
        for begin in range(0, len(table), at_once):
            part = slice(begin, begin + at_once)
            rows = np.flatnonzero(_differ(table[part], copy[part]))
            found.append((rows + begin).astype(np.int32))
        rows = np.concatenate(found)
        copy[rows] = table[rows]
        rows = np.unique(np.concatenate([rows, *self._again])) if self._again else rows
        self._again = []
        return rows

    def put_back(self, rows: Array) -> None:
        """See ``MovedRows``."""
        self._again.append(rows)


def _differ(table: Array, copy: Array) -> Array:
    """bool[rows], by their bits: a NaN equals itself, 0 and -0 differ."""
    differs: Array = table.view(np.uint32) != copy.view(np.uint32)
    return differs if differs.ndim == 1 else differs.any(axis=1)


class ChangeCollector:
    """Collects what moves, and copies it for a version.

    Args:
        weights: Returns the arrays.
        tables: By name of a table, what knows its moved rows; other arrays are copied whole.
        growth: The growing vocabulary; None where it is fixed.
        dictionaries: Are part of each full version.
    """

    def __init__(
        self,
        weights: Weights,
        tables: Mapping[str, MovedRows],
        growth: Growth | None,
        dictionaries: DictionaryTables,
    ) -> None:
        self._weights = weights
        self._tables = tables
        self._growth = growth
        self._dictionaries = dictionaries
        self._ids: list[Array] = []  # those that may belong to another value now

    def note(self, ids: Array, change: Change | None) -> None:
        """Notes what a step has touched.

        Args:
            ids: The ids in its batch, of any shape.
            change: What the batch has changed in the growing vocabulary.
        """
        touched = [ids.ravel()]
        if change is not None and self._growth is not None:
            freed = self._growth.ids_of(change.freed)
            self._ids += [self._growth.ids_of(change.slots), freed]
            touched.append(freed)  # their rows were reset
        for name in TABLES_OF_IDS:
            if name in self._tables:
                for rows in touched:
                    self._tables[name].note(rows)

    def full(self) -> Contents:
        """Copies everything; the next delta begins here."""
        whole = {}
        for name, array in self._weights().items():
            whole[name] = array.copy()
            if name in self._tables:
                self._tables[name].start(whole[name])
        self._ids = []
        vocabulary = None if self._growth is None else self._growth.entries()
        return Contents(
            whole,
            vocabulary=None if vocabulary is None else VocabularyChange(*vocabulary),
            dictionaries=self._dictionaries,
        )

    def delta(self) -> Contents:
        """Copies what has moved since the last copy."""
        whole: dict[str, Array] = {}
        parts: dict[str, tuple[Array, Array]] = {}
        for name, array in self._weights().items():
            rows = self._tables[name].take(array) if name in self._tables else None
            if rows is None or _is_smaller_whole(array, len(rows)):
                whole[name] = array.copy()
            else:
                parts[name] = rows, array[rows]
        return Contents(whole, parts, self._vocabulary_change())

    def put_back(self, delta: Contents) -> None:
        """Makes a delta that was not published part of the next one."""
        for name, table in self._tables.items():
            every_row = np.arange(len(delta.whole[name])) if name in delta.whole else None
            table.put_back(delta.rows[name][0] if every_row is None else every_row)
        if delta.vocabulary is not None:
            self._ids.append(delta.vocabulary.ids)

    def _vocabulary_change(self) -> VocabularyChange | None:
        if self._growth is None:
            return None
        ids = np.unique(np.concatenate([np.zeros(0, dtype=np.int32), *self._ids]))
        self._ids = []
        return VocabularyChange(*self._growth.entries(ids))


def _is_smaller_whole(table: Array, rows: int) -> bool:
    """Whether the whole table takes fewer bytes than so many of its rows with their numbers."""
    return rows * ROW_NUMBER_BYTES + rows * table[:1].nbytes >= table.nbytes
