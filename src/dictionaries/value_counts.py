"""How often each distinct value of a column occurs, however many distinct values there are.

Memory holds the counts of a limited number of values. When there are more, they are divided into
parts by a hash of the value and written to disk as one *run*. So all counts of a value are in the
same part of every run. At the end the parts are read and added up one by one, and memory needs to
hold one part of one column only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from src.dictionaries.value_table import keys_of, spread
from src.process.arrays import Array
from src.process.files import PathLike

MOST_HELD = 1 << 16
_PART_BITS = 6
_SCHEMA = pa.schema([("value", pa.large_string()), ("count", pa.int64())])
_NOTHING = pa.RecordBatch.from_pylist([], schema=_SCHEMA)
_ORDER = [("count", "descending"), ("value", "ascending")]


class RunFile:
    """Counts on disk, in a file without a name: nothing is left, however the process ends.

    Args:
        folder: The file's folder; created with the first write if it is missing.
    """

    def __init__(self, folder: PathLike) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def write(self, counts: pa.RecordBatch) -> tuple[int, int]:
        """Appends some counts.

        Returns:
            (offset, size) in bytes, for ``read``.

        Raises:
            OSError: The folder is not writable or full; the message names it.
        """
        data = counts.serialize()
        try:
            if self._file is None:
                os.makedirs(self._folder, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._folder)) from error
        return start, data.size

    def read(self, start: int, size: int) -> pa.RecordBatch:
        """Reads what ``write`` wrote."""
        assert self._file is not None, "what was written has a file"
        self._file.seek(start)
        return pa.ipc.read_record_batch(pa.py_buffer(self._file.read(size)), _SCHEMA)

    def close(self) -> None:
        """Frees the disk space."""
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True)
class FrequentValues:
    """The most frequent values of a column.

    Attributes:
        values: large_string[values], the most frequent first, equally frequent ones by their UTF-8
            bytes.
        counts: int64[values], how often each occurs.
        total: How many values are frequent enough, including those that are left out.
    """

    values: pa.Array
    counts: Array
    total: int


@dataclass
class ValueCounter:
    """Counts the values of one column.

    The counts of blocks are collected and merged once there are many. So each value takes part in
    few merges, however many blocks there are.

    Args:
        run_file: Takes what is too much for memory; columns may share it.
        most_held: The most distinct values whose counts stay in memory after a merge, and the most
            counts waiting for a merge (besides one block's).
    """

    run_file: RunFile
    most_held: int = MOST_HELD
    _held: pa.RecordBatch = field(init=False, default=_NOTHING)
    _unmerged: list[pa.StructArray] = field(init=False, default_factory=list)
    _unmerged_size: int = field(init=False, default=0)
    _runs: list[list[tuple[int, int]]] = field(init=False, default_factory=list)

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        """Counts a block of values: strings, plain or dictionary-encoded; null does not count.

        Raises:
            OSError: There is no room on the disk.
        """
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        block = pc.value_counts(column)
        if column.null_count:
            block = block.filter(pc.is_valid(block.field(0)))
        self._unmerged.append(block)
        self._unmerged_size += len(block)
        if self._unmerged_size > self.most_held:
            self._merge()
            if len(self._held) > self.most_held:
                self._write_run()

    def most_frequent(self, min_count: int, most: int) -> FrequentValues:
        """The values seen more than ``min_count`` times, or the ``most`` most frequent of them.

        Raises:
            OSError: There is no room on the disk.
        """
        self._merge()
        if self._runs and len(self._held):
            self._write_run()
        found, total = _NOTHING, 0
        for part in self._parts():
            frequent = part.filter(pc.greater(part["count"], min_count))
            total += len(frequent)
            found = _joined([found, frequent])
            if len(found) > 2 * most:
                found = _first(found, most)
        found = _first(found, most)
        return FrequentValues(found["value"], found["count"].to_numpy(), total)

    def _merge(self) -> None:
        unmerged = [
            _batch(block.field(0).cast(pa.large_string()), block.field(1))
            for block in self._unmerged
        ]
        self._held = _added_up([self._held, *unmerged])
        self._unmerged, self._unmerged_size = [], 0

    def _write_run(self) -> None:
        parts = _parts_of(self._held["value"])
        in_order = self._held.take(pa.array(np.argsort(parts, kind="stable")))
        sizes = np.bincount(parts, minlength=1 << _PART_BITS)
        starts = np.cumsum(sizes) - sizes
        self._runs.append(
            [
                self.run_file.write(in_order.slice(start, size))
                for start, size in zip(starts.tolist(), sizes.tolist())
            ]
        )
        self._held = _NOTHING

    def _parts(self) -> Iterator[pa.RecordBatch]:
        """The counts of all values, each value once."""
        if not self._runs:
            yield self._held
        for places in zip(*self._runs):
            yield _added_up([self.run_file.read(*place) for place in places])


def _batch(values: pa.Array, counts: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([values, counts], schema=_SCHEMA)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    columns = zip(*(batch.columns for batch in batches))
    return pa.RecordBatch.from_arrays([pa.concat_arrays(c) for c in columns], schema=_SCHEMA)


def _added_up(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The counts of all batches, each value once."""
    if len(batches) == 1:
        return batches[0]
    joined = _joined(batches)
    encoded = joined["value"].dictionary_encode()
    # Sums of float64 are exact up to 2**53 rows.
    summed = np.bincount(encoded.indices.to_numpy(), weights=joined["count"].to_numpy())
    counts = summed[: len(encoded.dictionary)].astype(np.int64)
    return _batch(encoded.dictionary, pa.array(counts))


def _first(counts: pa.RecordBatch, most: int) -> pa.RecordBatch:
    """The most frequent values in the order of ``FrequentValues``."""
    return counts.take(pc.sort_indices(counts, sort_keys=_ORDER)[:most])


def _parts_of(values: pa.Array) -> Array:
    """The part of each value, uint8[values], by a hash of its first eight bytes."""
    keys, _ = keys_of(values)
    parts: Array = (spread(keys) >> np.uint64(64 - _PART_BITS)).astype(np.uint8)
    return parts
