"""What has moved since the last version: the rows of each table, and the ids of values.

Everything here runs between two steps, so it must be quick. What was taken for a version that could
not be written is put back, and is part of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from src.dictionaries.growing.growth import Growth
from src.dictionaries.growing.vocabulary import Change
from src.process.arrays import Array
from src.publishing.version_format import Contents, DictionaryTables, VocabularyChange

TABLES_OF_IDS = ("wide_weight", "embedding_table")
"""They have a row for each id."""
CROSSES = "cross_weight"
ROW_NUMBER_BYTES = 4
COMPARED_AT_ONCE = 1 << 20

Weights = Callable[[], Mapping[str, Array]]
"""Returns the arrays of a model by name, as they are now; they may be views of its own memory."""


Moved = tuple[Array, Array]
"""Rows of a table, int32[n] and ascending, and their numbers, [n, …]."""


class NotedRows:
    """Rows that training has touched; it costs one byte per row and next to no time.

    Args:
        size: Rows of the tables.
    """

    def __init__(self, size: int) -> None:
        self._is_moved = np.zeros(size, dtype=bool)

    def note(self, rows: Array | slice) -> None:
        """These rows may have moved."""
        self._is_moved[rows] = True

    def take(self) -> Array:
        """The rows noted since the last ``take``, int32[n], ascending."""
        rows = np.flatnonzero(self._is_moved).astype(np.int32)
        self._is_moved[rows] = False
        return rows

    def clear(self) -> None:
        """Forgets the rows noted."""
        self._is_moved[:] = False


class ComparedTable:
    """Finds moved rows by comparing a table with a copy of it as it was.

    It costs the memory of the table. It needs to know of no id, so it also finds what other ranks
    or an operator have moved. Four million numbers take 2 ms. The copy is what gets written where
    most rows have moved. So it must not be changed before that is done.
    """

    def __init__(self) -> None:
        self._copy: Array | None = None
        self._again: list[Array | slice] = []

    def start(self, table: Array) -> Array:
        """Copies the table; from now on rows count as moved if they differ from it."""
        if self._copy is None or self._copy.shape != table.shape:
            self._copy = table.copy()
        else:
            np.copyto(self._copy, table)
        self._again = []
        return self._copy

    def take(self, table: Array) -> Array | Moved:
        """What has moved since the last call: rows, or the whole table where most have."""
        copy = self._copy
        assert copy is not None, "it was started"
        is_moved = _differ(table, copy)
        for rows in self._again:
            is_moved[rows] = True
        self._again = []
        if _is_smaller_whole(table, int(np.count_nonzero(is_moved))):
            np.copyto(copy, table)
            return copy
        rows = np.flatnonzero(is_moved).astype(np.int32)
        numbers = table[rows]
        copy[rows] = numbers
        return rows, numbers

    def put_back(self, rows: Array | slice) -> None:
        """Makes rows that were taken part of the next ``take``."""
        self._again.append(rows)


def _differ(table: Array, copy: Array) -> Array:
    """bool[rows], by their bits: a NaN equals itself, 0 and -0 differ."""
    table, copy = table.view(np.uint32), copy.view(np.uint32)
    if table.ndim == 1:
        return np.not_equal(table, copy)
    differs = np.empty(len(table), dtype=bool)
    at_once = max(COMPARED_AT_ONCE // table[:1].size, 1)
    for begin in range(0, len(table), at_once):
        part = slice(begin, begin + at_once)
        (table[part] != copy[part]).any(axis=1, out=differs[part])
    return differs


class ChangeCollector:
    """Collects what moves, and copies it for a version.

    A version's copy must be written before the next one is made.

    Args:
        weights: Returns the arrays.
        noted: The rows of ``TABLES_OF_IDS`` that training has touched; None where not all of them
            are known.
        compared: Other tables, by name. Arrays that are no tables are copied whole.
        growth: The growing vocabulary; None where it is fixed.
        dictionaries: Are part of each full version.
    """

    def __init__(
        self,
        weights: Weights,
        noted: NotedRows | None,
        compared: Mapping[str, ComparedTable],
        growth: Growth | None,
        dictionaries: DictionaryTables,
    ) -> None:
        self._weights = weights
        self._noted = noted
        self._compared = compared
        self._growth = growth
        self._dictionaries = dictionaries
        self._ids: list[Array] = []  # those that may belong to another value now

    def note(self, ids: Array, change: Change | None) -> None:
        """Notes what a step has touched.

        Args:
            ids: The ids in its batch, of any shape.
            change: What the batch has changed in the growing vocabulary.
        """
        if self._noted is not None:
            self._noted.note(ids)
        if change is None or self._growth is None:
            return
        if len(change.slots):
            self._ids.append(self._growth.ids_of(change.slots))
        if len(change.freed):
            freed = self._growth.ids_of(change.freed)
            self._ids.append(freed)
            if self._noted is not None:
                self._noted.note(freed)  # these rows were reset

    def full(self) -> Contents:
        """Copies everything; the next delta begins here."""
        whole = {
            name: self._compared[name].start(array) if name in self._compared else array.copy()
            for name, array in self._weights().items()
        }
        if self._noted is not None:
            self._noted.clear()
        self._ids = []
        vocabulary = None if self._growth is None else self._growth.entries()
        return Contents(
            whole,
            vocabulary=None if vocabulary is None else VocabularyChange(*vocabulary),
            dictionaries=self._dictionaries,
        )

    def delta(self) -> Contents:
        """Copies what has moved since the last copy."""
        noted = None if self._noted is None else self._noted.take()
        whole: dict[str, Array] = {}
        parts: dict[str, Moved] = {}
        for name, array in self._weights().items():
            found: Array | Moved = array
            if name in self._compared:
                found = self._compared[name].take(array)
            elif noted is None or name not in TABLES_OF_IDS or _is_smaller_whole(array, len(noted)):
                found = array.copy()
            else:
                found = noted, array[noted]
            if isinstance(found, tuple):
                parts[name] = found
            else:
                whole[name] = found
        return Contents(whole, parts, self._vocabulary_change())

    def put_back(self, delta: Contents) -> None:
        """Makes a delta that was not published part of the next one."""
        for name in (*TABLES_OF_IDS, *self._compared):
            rows = delta.rows[name][0] if name in delta.rows else slice(None)
            if name in self._compared:
                self._compared[name].put_back(rows)
            elif self._noted is not None:
                self._noted.note(rows)
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
