"""A vocabulary that grows with the stream: values that the dictionaries lack get ids of their own.

The result depends only on the dictionaries, the settings and the batches in their order. So a run
that resumes from a checkpoint grows exactly like one that was never interrupted. The vocabulary
grows batch by batch, because windows close by the clock. Batches do so only with ``batch_seconds``:

* The cells of a batch that are out of vocabulary are counted, missing values included. A value
  gets an id in the batch with its ``admit_count``-th sighting. Until then it is out of vocabulary.
* Sightings of values without an id are counted in a sketch of fixed size. It may overcount where
  values collide, and it drops what is older than two times ``expire_rows`` rows.
* When the ids run out, those that were in no batch for ``expire_rows`` rows are freed. They may be
  assigned again from the next batch on. Their rows in the model must be reset before that.
"""

from __future__ import annotations

import io
import zipfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from src.dictionaries.errors import VocabularyError
from src.dictionaries.growing.key_table import NO_SLOT, KeyTable
from src.dictionaries.growing.sighting_sketch import SightingSketch
from src.dictionaries.oov import UNLEARNABLE, bits_of_cells, oov_cells
from src.dictionaries.value_keys import value_keys
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_COLUMNS, CATEGORICAL_SIZE, DENSE_SIZE

FORMAT = 1
_FREE = -1
_AT_ONCE = 10_000
"""Values between which another thread may take Python's lock."""


@dataclass(frozen=True)
class GrowthSettings:
    """How a vocabulary grows.

    Attributes:
        admit_count: The number of sightings that gives a value an id.
        expire_rows: An id that was in none of so many rows may be freed.
    """

    admit_count: int
    expire_rows: int


@dataclass(frozen=True, eq=False)
class Change:
    """What one batch changes in a vocabulary.

    Attributes:
        rows: Rows of the batch.
        seen: uint64[k], keys of the distinct values that still have no id.
        times: int64[k], how often each is in the batch.
        slots: int64[a], newly assigned slots; a slot plus the first free id is an id.
        keys: uint64[a], the keys of the values that get them.
        columns: int8[a], the columns of the values that get them.
        values: a values, their UTF-8 bytes.
        used: int64[m], slots of the ids in the batch, newly assigned ones included. One stands
            here as often as in the batch.
        freed: int64[f], slots that are freed.
    """

    rows: int
    seen: Array
    times: Array
    slots: Array
    keys: Array
    columns: Array
    values: Sequence[bytes]
    used: Array
    freed: Array


class Vocabulary:
    """The ids assigned so far, and the sightings of values without one.

    ``plan`` returns what a batch changes and ``apply`` makes the change. So a second vocabulary can
    make the same changes later.

    Args:
        free_ids: (first, end): the ids that may be assigned are first … end - 1.
        settings: How it grows.
    """

    def __init__(self, free_ids: tuple[int, int], settings: GrowthSettings) -> None:
        self.free_ids = free_ids
        self.settings = settings
        size = max(free_ids[1] - free_ids[0], 0)
        self.rows = 0
        self._sketch = SightingSketch(settings.expire_rows)
        self._column: Array = np.full(size, _FREE, dtype=np.int8)
        self._used_at: Array = np.zeros(size, dtype=np.int64)
        self._key: Array = np.zeros(size, dtype=np.uint64)
        self._value: list[bytes] = [b""] * size
        self._slot_by_key: KeyTable | None = None  # made when it is first needed
        self._never_used = 0  # slots from here on were never assigned
        self._freed: deque[int] = deque()

    def __len__(self) -> int:
        """How many values have an id."""
        return self._never_used - len(self._freed)

    @property
    def room(self) -> int:
        """How many ids are still free."""
        return len(self._column) - len(self)

    def items(self) -> list[tuple[str, int]]:
        """(token, id) of every value that has an id; a token is ``C1_<value>``."""
        taken = np.flatnonzero(self._column != _FREE)
        return [
            (f"{CATEGORICAL_COLUMNS[self._column[slot]]}_{self._value[slot].decode()}", first)
            for slot, first in zip(taken.tolist(), (taken + self.free_ids[0]).tolist())
        ]

    def entries(self, ids: Array | None = None) -> tuple[Array, Array, list[bytes]]:
        """Which values have these ids.

        Args:
            ids: int32[n] of those that may be assigned; None for all that a value has.

        Returns:
            (ids int32[n], columns int8[n], n values): the column is -1 and the value empty where
            no value has the id.
        """
        if ids is None:
            ids = np.flatnonzero(self._column != _FREE) + self.free_ids[0]
        slots = ids - self.free_ids[0]
        columns = self._column[slots]
        values = list(map(self._value.__getitem__, slots.tolist()))
        for place in np.flatnonzero(columns == _FREE).tolist():
            values[place] = b""
        return ids.astype(np.int32), columns, values

    def look_up(self, ids: Array, oov: Array, values: Array) -> tuple[Array, Array]:
        """The ids of rows in the vocabulary as it is; nothing is learnt.

        Args:
            ids: int32[rows, 39] by the dictionaries.
            oov: uint32[rows], see ``oov.oov_bits``.
            values: S[rows, 26], the values out of vocabulary.

        Returns:
            (ids, oov) with the ids of the values that have one.
        """
        cells = _Cells(oov, values)
        return cells.put(ids, oov, self._slots(cells.keys), self.free_ids[0])

    def plan(self, ids: Array, oov: Array, values: Array) -> tuple[Array, Array, Change]:
        """The ids of the next batch, and what it changes; arguments as for ``look_up``.

        Returns:
            (ids, oov) as ``look_up`` returns them after the change, and the change.
        """
        cells = _Cells(oov, values)
        slots = self._slots(cells.keys)
        unknown = _Distinct(cells, np.flatnonzero(slots < 0))
        seen = self._sketch.count(unknown.keys) + unknown.times
        is_due = unknown.learnable & (seen >= self.settings.admit_count)
        due = np.flatnonzero(is_due)
        due = due[np.argsort(unknown.cell[due])]  # in the order of the stream
        admitted = due[: self.room]
        new_slots = np.full(len(unknown.keys), NO_SLOT)
        new_slots[admitted] = self._next_slots(len(admitted))
        slots[unknown.cells] = new_slots[unknown.of_cell]
        used = slots[slots >= 0]
        staying = unknown.learnable & (new_slots < 0)
        change = Change(
            rows=len(ids),
            seen=unknown.keys[staying],
            times=unknown.times[staying],
            slots=new_slots[admitted],
            keys=unknown.keys[admitted],
            columns=cells.column[unknown.cell[admitted]].astype(np.int8),
            values=cells.values[unknown.cell[admitted]].tolist(),
            used=used,
            freed=self._expired(used) if len(due) > len(admitted) else slots[:0],
        )
        ids, oov = cells.put(ids, oov, slots, self.free_ids[0])
        return ids, oov, change

    def apply(self, change: Change) -> None:
        """Makes a change; changes must be made in the order in which they were planned."""
        self.rows += change.rows
        self._sketch.add(change.seen, change.times)
        self._sketch.advance(change.rows)
        self._take_slots(len(change.slots))
        self._fill(change.slots, change.keys, change.columns, change.values)
        self._used_at[change.used] = self.rows
        if self._slot_by_key is not None:
            self._slot_by_key.remove(self._key[change.freed])
        self._column[change.freed] = _FREE
        self._freed.extend(change.freed.tolist())

    def _slots(self, keys: Array) -> Array:
        """The slots of keys, int64[n]; -1 where a key has none.

        A vocabulary that only follows another one is never asked, and needs no table.
        """
        if self._slot_by_key is None:
            taken = np.flatnonzero(self._column != _FREE)
            self._slot_by_key = KeyTable()
            self._slot_by_key.add(self._key[taken], taken)
        return self._slot_by_key.look_up(keys)

    def _next_slots(self, number: int) -> Array:
        """The slots to assign next: first those never used, then the freed ones."""
        fresh = min(number, len(self._column) - self._never_used)
        again = [self._freed[place] for place in range(number - fresh)]
        slots = [*range(self._never_used, self._never_used + fresh), *again]
        return np.array(slots, dtype=np.int64)

    def _take_slots(self, number: int) -> None:
        fresh = min(number, len(self._column) - self._never_used)
        self._never_used += fresh
        for _ in range(number - fresh):
            self._freed.popleft()

    def _fill(self, slots: Array, keys: Array, columns: Array, values: Sequence[bytes]) -> None:
        """Assigns slots to values."""
        self._column[slots] = columns
        self._key[slots] = keys
        for slot, value in zip(slots.tolist(), values):
            self._value[slot] = value
        if self._slot_by_key is not None:
            self._slot_by_key.add(keys, slots)

    def _expired(self, used: Array) -> Array:
        """Assigned slots not in ``used``, and in none of the last ``expire_rows`` rows."""
        is_old = self._used_at <= self.rows - self.settings.expire_rows
        is_old &= self._column != _FREE
        is_old[used] = False
        expired: Array = np.flatnonzero(is_old)
        return expired

    def dump(self) -> bytes:
        """The vocabulary as bytes, for ``load``."""
        return self.copied()()

    def copied(self) -> Callable[[], bytes]:
        """Copies the vocabulary; the result makes of the copy what ``dump`` returns.

        Copying takes a small part of the time, and any thread may do the rest.
        """
        end = self._never_used
        numbers = [FORMAT, *self.free_ids, self.rows, end, self._sketch.rows]
        return partial(
            _dumped,
            numbers,
            self._column[:end].copy(),
            self._used_at[:end].copy(),
            self._value[:end],
            list(self._freed),
            self._sketch.counts.copy(),
        )

    @classmethod
    def load(cls, data: bytes, settings: GrowthSettings) -> Vocabulary:
        """The vocabulary that ``dump`` wrote, to grow on with these settings.

        Raises:
            VocabularyError: The bytes are not a vocabulary.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as saved:
                return cls._restored(dict(saved), settings)
        except (KeyError, IndexError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise VocabularyError(f"not a saved vocabulary: {error}") from None

    @classmethod
    def _restored(cls, saved: dict[str, Array], settings: GrowthSettings) -> Vocabulary:
        version, first, end, rows, untouched, sketch_rows = saved["numbers"].tolist()
        if version != FORMAT:
            raise VocabularyError(f"it has format {version}, expected {FORMAT}")
        made = cls((first, end), settings)
        made.rows, made._never_used = rows, untouched
        made._sketch.rows, made._sketch.counts = sketch_rows, saved["sketch"]
        bounds = np.concatenate(([0], np.cumsum(saved["lengths"]))).tolist()
        text = saved["text"].tobytes()
        values = [text[begin:stop] for begin, stop in zip(bounds, bounds[1:])]
        keys = value_keys(saved["columns"].astype(np.int64), np.array(values, dtype=np.bytes_))
        made._fill(saved["slots"], keys, saved["columns"], values)
        made._used_at[saved["slots"]] = saved["used_at"]
        made._freed.extend(saved["returned"].tolist())
        return made


def _dumped(
    numbers: list[int],
    column: Array,
    used_at: Array,
    value: list[bytes],
    freed: list[int],
    sketch: Array,
) -> bytes:
    """A vocabulary's bytes, made of the slots that were ever used."""
    taken = np.flatnonzero(column != _FREE)
    lengths: Array = np.empty(len(taken), dtype=np.int32)
    text = io.BytesIO()
    for begin in range(0, len(taken), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        values = list(map(value.__getitem__, taken[part].tolist()))
        lengths[part] = np.fromiter(map(len, values), dtype=np.int32, count=len(values))
        text.write(b"".join(values))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        numbers=np.array(numbers, dtype=np.int64),
        slots=taken,
        columns=column[taken],
        used_at=used_at[taken],
        lengths=lengths,
        text=np.frombuffer(text.getvalue(), dtype=np.uint8),
        returned=np.array(freed, dtype=np.int64),
        sketch=sketch,
    )
    return buffer.getvalue()


class _Cells:
    """The cells of a batch that are out of vocabulary, row by row."""

    def __init__(self, oov: Array, values: Array) -> None:
        self.row, self.column = np.nonzero(oov_cells(oov))
        self.values = values[self.row, self.column]
        self.keys = value_keys(self.column, self.values)

    def put(self, ids: Array, oov: Array, slots: Array, first_id: int) -> tuple[Array, Array]:
        """Copies of ids and oov with the ids of the cells that have a slot."""
        has_id = slots >= 0
        row, column = self.row[has_id], self.column[has_id]
        ids = ids.copy()
        ids[row, DENSE_SIZE + column] = first_id + slots[has_id]
        still_oov = np.zeros((len(oov), CATEGORICAL_SIZE), dtype=bool)
        still_oov[self.row[~has_id], self.column[~has_id]] = True
        return ids, bits_of_cells(still_oov)


class _Distinct:
    """The distinct values of some cells, in the order of their keys.

    Attributes:
        cells: The cells.
        of_cell: The place of each cell's value among these.
        keys: uint64[n], the keys of the values.
        times: How often each is in the cells.
        cell: The first cell that holds it.
        learnable: Whether it may get an id.
    """

    def __init__(self, cells: _Cells, some: Array) -> None:
        self.cells = some
        self.keys, first, self.of_cell, self.times = np.unique(
            cells.keys[some], return_index=True, return_inverse=True, return_counts=True
        )
        self.cell = some[first]
        self.learnable = cells.values[self.cell] != UNLEARNABLE
