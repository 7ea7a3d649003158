"""A vocabulary that grows with the stream: values that the dictionaries lack get ids of their own.

Everything here is a function of the dictionaries, the settings and the batches in their order, so
that a run which resumes from a checkpoint grows on exactly as one that was never interrupted. It
works batch by batch, since windows are cut by the clock and batches are not:

* The cells of a batch that are out of vocabulary, a missing value among them, are counted. A value
  that was seen ``admit_count`` times, this batch included, gets an id, and has it in this batch
  already. It is out of vocabulary until then.
* Sightings of values without an id are counted in a sketch of fixed size, which may overcount
  where values collide and forgets what is older than two times ``expire_rows`` rows.
* When the ids run out, those that were in no batch for ``expire_rows`` rows are freed, to be given
  out again from the next batch on. Their rows in the model must be reset before that.
"""

from __future__ import annotations

import io
import zipfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.dictionaries.oov import MAX_VALUE_BYTES, UNLEARNABLE, bits_of_cells, oov_cells
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_COLUMNS, CATEGORICAL_SIZE, DENSE_SIZE

FORMAT = 1
WORD_BYTES = 8
_NOBODY = -1
_SKETCH_DEPTH = 2
_SKETCH_WIDTHS = (1 << 14, 1 << 22)


class VocabularyError(ValueError):
    """A saved vocabulary can't be read, or does not fit; one line says why."""


# --- values as 64-bit keys ------------------------------------------------------------------------


def _mixed(keys: Array) -> Array:
    """Spreads the bits of 64-bit keys, one to one: the finaliser of SplitMix64."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = keys ^ (keys >> np.uint64(31))
    return mixed


_FACTORS = _mixed(np.arange(1, MAX_VALUE_BYTES // WORD_BYTES + 1, dtype=np.uint64)) | np.uint64(1)
_COLUMN_SALT = _mixed(np.arange(101, 101 + CATEGORICAL_SIZE, dtype=np.uint64))


def value_keys(columns: Array, values: Array) -> Array:
    """A 64-bit key for each (column, value).

    Values of up to eight bytes never collide within a column; any two others do with a chance of
    2^-64.

    Args:
        columns: int[n], 0 for C1 … 25 for C26.
        values: S[n], the values' UTF-8 bytes.

    Returns:
        uint64[n], the same whatever the width of ``values``.
    """
    width = -(-max(values.dtype.itemsize, 1) // WORD_BYTES) * WORD_BYTES
    words = np.ascontiguousarray(values.astype(f"S{width}")).view("<u8")
    words = words.reshape(len(values), width // WORD_BYTES)
    summed = (words * _FACTORS[: words.shape[1]]).sum(axis=1, dtype=np.uint64)
    return _mixed(summed ^ _COLUMN_SALT[columns])


# --- how often a value was seen -------------------------------------------------------------------


class SightingSketch:
    """Counts sightings of any number of keys in a fixed amount of memory; it never undercounts.

    A count-min sketch of two generations of saturating bytes. Counts of the older one are
    forgotten each time the younger one has covered ``generation_rows`` rows.

    Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch", 2005.

    Args:
        generation_rows: Rows that a generation covers.
    """

    def __init__(self, generation_rows: int) -> None:
        low, high = _SKETCH_WIDTHS
        width = min(max(1 << (2 * generation_rows - 1).bit_length(), low), high)
        self.generation_rows = generation_rows
        self.rows = 0
        self.counts: Array = np.zeros((2, _SKETCH_DEPTH, width), dtype=np.uint8)

    def count(self, keys: Array) -> Array:
        """How often each key was seen, int64[n]; a little more where keys collide."""
        places = self._places(keys)
        young = [self.counts[0, depth, place] for depth, place in enumerate(places)]
        old = [self.counts[1, depth, place] for depth, place in enumerate(places)]
        counted: Array = np.minimum(*young).astype(np.int64) + np.minimum(*old)
        return counted

    def add(self, keys: Array, times: Array) -> None:
        """Adds sightings of distinct keys."""
        for counts, places in zip(self.counts[0], self._places(keys)):
            # Sum up first: of two keys in one place only the last would count.
            distinct, inverse = np.unique(places, return_inverse=True)
            sums = np.bincount(inverse, weights=times)
            counts[distinct] = np.minimum(counts[distinct] + sums, 255).astype(np.uint8)

    def advance(self, rows: int) -> None:
        """Counts rows; a generation that has covered its rows becomes the older one."""
        self.rows += rows
        if self.rows >= self.generation_rows:
            self.rows = 0
            self.counts[1] = self.counts[0]
            self.counts[0] = 0

    def _places(self, keys: Array) -> Sequence[Array]:
        width = self.counts.shape[2]
        return (
            (keys & np.uint64(width - 1)).astype(np.int64),
            ((keys >> np.uint64(32)) & np.uint64(width - 1)).astype(np.int64),
        )


# --- the vocabulary -------------------------------------------------------------------------------


@dataclass(frozen=True)
class GrowthSettings:
    """How a vocabulary grows.

    Attributes:
        admit_count: Sightings after which a value gets an id.
        expire_rows: Rows after which an id that was in none of them may be freed.
    """

    admit_count: int
    expire_rows: int


@dataclass(frozen=True, eq=False)
class Change:
    """What one batch does to a vocabulary.

    Attributes:
        rows: Rows of the batch.
        seen: uint64[k], keys of distinct values that stay without an id.
        times: int64[k], how often each is in the batch.
        slots: int64[a], slots given out; a slot plus the first free id is an id.
        columns: int8[a], the columns of the values that get them.
        values: a values, their UTF-8 bytes.
        used: int64[m], slots of the ids in the batch, those just given out among them.
        freed: int64[f], slots taken back.
    """

    rows: int
    seen: Array
    times: Array
    slots: Array
    columns: Array
    values: Sequence[bytes]
    used: Array
    freed: Array


class Vocabulary:
    """The ids given out so far, and the sightings of values without one.

    ``plan`` says what a batch changes and ``apply`` changes it, so that a second vocabulary can
    follow the first at a distance.

    Args:
        free_ids: (first, end): the ids that may be given out are first … end - 1.
        settings: How it grows.
    """

    def __init__(self, free_ids: tuple[int, int], settings: GrowthSettings) -> None:
        self.free_ids = free_ids
        self.settings = settings
        size = max(free_ids[1] - free_ids[0], 0)
        self.rows = 0
        self._sketch = SightingSketch(settings.expire_rows)
        self._column: Array = np.full(size, _NOBODY, dtype=np.int8)
        self._used_at: Array = np.zeros(size, dtype=np.int64)
        self._key: Array = np.zeros(size, dtype=np.uint64)
        self._value: list[bytes] = [b""] * size
        self._slot_by_key: dict[int, int] = {}
        self._untouched = 0  # slots from here on were never given out
        self._returned: deque[int] = deque()

    def __len__(self) -> int:
        """How many values have an id."""
        return len(self._slot_by_key)

    @property
    def room(self) -> int:
        """How many ids are there to give out."""
        return len(self._column) - self._untouched + len(self._returned)

    def items(self) -> list[tuple[str, int]]:
        """(token, id) of every value that has an id; a token is ``C1_<value>``."""
        taken = np.flatnonzero(self._column != _NOBODY)
        return [
            (f"{CATEGORICAL_COLUMNS[self._column[slot]]}_{self._value[slot].decode()}", first)
            for slot, first in zip(taken.tolist(), (taken + self.free_ids[0]).tolist())
        ]

    def look_up(self, ids: Array, oov: Array, values: Array) -> tuple[Array, Array]:
        """The ids of rows as they stand, without learning anything.

        Args:
            ids: int32[rows, 39] by the dictionaries.
            oov: uint32[rows], see ``oov.oov_bits``.
            values: S[rows, 26], the values out of vocabulary.

        Returns:
            (ids, oov) with the values that have an id of their own put in place.
        """
        cells = _Cells(oov, values)
        return cells.put(ids, oov, self._slots(cells.keys), self.free_ids[0])

    def plan(self, ids: Array, oov: Array, values: Array) -> tuple[Array, Array, Change]:
        """What the next batch looks like, and what it changes; arguments as for ``look_up``.

        Returns:
            (ids, oov) as ``look_up`` gives them after the change, and the change.
        """
        cells = _Cells(oov, values)
        slots = self._slots(cells.keys)
        unknown = np.flatnonzero((slots < 0) & cells.learnable)
        seen = self._sketch.count(cells.keys[unknown]) + cells.times[unknown]
        due = unknown[seen >= self.settings.admit_count]
        due = due[np.argsort(cells.first[due], kind="stable")]  # in the order of the stream
        admitted = due[: self.room]
        slots[admitted] = self._next_slots(len(admitted))
        staying = unknown[slots[unknown] < 0]
        change = Change(
            rows=len(ids),
            seen=cells.keys[staying],
            times=cells.times[staying],
            slots=slots[admitted],
            columns=cells.columns[admitted].astype(np.int8),
            values=cells.values[admitted].tolist(),
            used=slots[slots >= 0],
            freed=self._expired(slots) if len(due) > len(admitted) else slots[:0],
        )
        return (*cells.put(ids, oov, slots, self.free_ids[0]), change)

    def apply(self, change: Change) -> None:
        """Makes a change; changes must come in the order in which they were planned."""
        self.rows += change.rows
        self._sketch.add(change.seen, change.times)
        self._sketch.advance(change.rows)
        self._take_slots(len(change.slots))
        self._fill(change.slots, change.columns, change.values)
        self._used_at[change.used] = self.rows
        for key in self._key[change.freed].tolist():
            del self._slot_by_key[key]
        self._column[change.freed] = _NOBODY
        self._returned.extend(change.freed.tolist())

    def _slots(self, keys: Array) -> Array:
        """int64[n], the slot of each key, -1 where it has none."""
        found = map(self._slot_by_key.get, keys.tolist(), [_NOBODY] * len(keys))
        return np.fromiter(found, dtype=np.int64, count=len(keys))

    def _next_slots(self, number: int) -> Array:
        """The slots that are given out next, those never used before the returned ones."""
        fresh = min(number, len(self._column) - self._untouched)
        again = [self._returned[place] for place in range(number - fresh)]
        slots = [*range(self._untouched, self._untouched + fresh), *again]
        return np.array(slots, dtype=np.int64)

    def _take_slots(self, number: int) -> None:
        fresh = min(number, len(self._column) - self._untouched)
        self._untouched += fresh
        for _ in range(number - fresh):
            self._returned.popleft()

    def _fill(self, slots: Array, columns: Array, values: Sequence[bytes]) -> None:
        """Writes down whose the slots are."""
        if not len(slots):
            return
        keys = value_keys(columns.astype(np.int64), np.array(values, dtype=np.bytes_))
        self._column[slots] = columns
        self._key[slots] = keys
        for slot, value in zip(slots.tolist(), values):
            self._value[slot] = value
        self._slot_by_key.update(zip(keys.tolist(), slots.tolist()))

    def _expired(self, used: Array) -> Array:
        """Taken slots that are not among those used in this batch, nor were lately."""
        is_old = self._used_at <= self.rows - self.settings.expire_rows
        is_old &= self._column != _NOBODY
        is_old[used[used >= 0]] = False
        expired: Array = np.flatnonzero(is_old)
        return expired

    # --- as bytes -------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """Everything that ``load`` needs to go on from here."""
        taken = np.flatnonzero(self._column != _NOBODY)
        values = [self._value[slot] for slot in taken.tolist()]
        buffer = io.BytesIO()
        np.savez(
            buffer,
            numbers=np.array(
                [FORMAT, *self.free_ids, self.rows, self._untouched, self._sketch.rows],
                dtype=np.int64,
            ),
            slots=taken,
            columns=self._column[taken],
            used_at=self._used_at[taken],
            lengths=np.array([len(value) for value in values], dtype=np.int32),
            text=np.frombuffer(b"".join(values), dtype=np.uint8),
            returned=np.array(self._returned, dtype=np.int64),
            sketch=self._sketch.counts,
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, data: bytes, settings: GrowthSettings) -> Vocabulary:
        """The vocabulary that ``dump`` has written, to grow on with these settings.

        Raises:
            VocabularyError: The bytes are none.
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
        made.rows, made._untouched = rows, untouched
        made._sketch.rows, made._sketch.counts = sketch_rows, saved["sketch"]
        bounds = np.concatenate(([0], np.cumsum(saved["lengths"]))).tolist()
        text = saved["text"].tobytes()
        values = [text[begin:stop] for begin, stop in zip(bounds, bounds[1:])]
        made._fill(saved["slots"], saved["columns"], values)
        made._used_at[saved["slots"]] = saved["used_at"]
        made._returned.extend(saved["returned"].tolist())
        return made


class _Cells:
    """The distinct values of a batch that are out of vocabulary, in the order of their keys."""

    def __init__(self, oov: Array, values: Array) -> None:
        self.row, self.column = np.nonzero(oov_cells(oov))
        found = values[self.row, self.column]
        keys = value_keys(self.column, found)
        self.keys, self.first, self._of_cell, self.times = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        self.columns = self.column[self.first]
        self.values = found[self.first]
        self.learnable = self.values != UNLEARNABLE

    def put(self, ids: Array, oov: Array, slots: Array, first_id: int) -> tuple[Array, Array]:
        """Copies of ids and oov with the values in place that have a slot."""
        slot = slots[self._of_cell]
        has_id = slot >= 0
        row, column = self.row[has_id], self.column[has_id]
        ids = ids.copy()
        ids[row, DENSE_SIZE + column] = first_id + slot[has_id]
        still_oov = oov_cells(oov)
        still_oov[row, column] = False
        return ids, bits_of_cells(still_oov)
