"""Where in the stream we are: which rows have been taken, and which comes next.

A position holds the next offset of each partition, and the partition of the last row. The merge of
the partitions depends on nothing else (see ``src/channel/merge_order.py``). So the same position
and the same topic yield the same rows in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from src.process.arrays import Array

Stretch = tuple[int, int]
"""(begin, end) of offsets of one partition: ``end`` is the first one after them."""


class GapError(RuntimeError):
    """Rows between the position and the rows that arrived are missing."""


@dataclass(frozen=True)
class Position:
    """A place in the stream.

    Attributes:
        offsets: Partition → the next offset to take.
        last_partition: The partition of the last row taken, -1 before the first.
        empty_until: Partition → an offset beyond the next one; no row lies between the two. Bad
            rows may, or markers of transactions, or nothing. Partitions without such are missing.
    """

    offsets: Mapping[int, int]
    last_partition: int = -1
    empty_until: Mapping[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{part}:{offset}" for part, offset in sorted(self.reached.items()))

    @property
    def reached(self) -> dict[int, int]:
        """Partition → where reading goes on: after what is known to hold no row."""
        return {**self.offsets, **self.empty_until}

    def with_empty(self, stretches: Mapping[int, Stretch]) -> Position:
        """The same position where some stretches of the topic are known to hold no row."""
        found = {
            number: end
            for number, (begin, end) in stretches.items()
            if number in self.offsets and begin <= self.offsets[number] < end
        }
        kept = {
            number: max(end, found.get(number, end)) for number, end in self.empty_until.items()
        }
        return replace(self, empty_until={**found, **kept})

    @property
    def stretches(self) -> dict[int, Stretch]:
        """The stretches without a row that it knows of."""
        return {number: (self.offsets[number], end) for number, end in self.empty_until.items()}

    def to_json(self) -> str:
        """The position as one line of JSON."""
        fields: dict[str, Any] = {
            "offsets": _as_json(self.offsets),
            "last_partition": self.last_partition,
        }
        if self.empty_until:
            fields["empty_until"] = _as_json(self.empty_until)
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> Position:
        """Reads what ``to_json`` wrote."""
        fields = json.loads(text)
        offsets, empty = (
            {int(part): int(offset) for part, offset in fields.get(name, {}).items()}
            for name in ("offsets", "empty_until")
        )
        return Position(offsets, int(fields["last_partition"]), empty)


def _as_json(offsets: Mapping[int, int]) -> dict[str, int]:
    return {str(part): offset for part, offset in sorted(offsets.items())}


@dataclass(frozen=True)
class PartitionLag:
    """How far reading lags in a partition: rows, and the age of the oldest in seconds.

    The age is None where its producer gave no time.
    """

    rows: int
    seconds: float | None


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of one partition: its first and last offset and how many rows."""

    partition: int
    first_offset: int
    last_offset: int
    rows: int


class PositionTracker:
    """Admits each row of the stream exactly once, in order.

    Every row carries its partition, its offset and its ``start``. It covers the partition from
    ``start`` to its offset. ``start`` is less than the offset where the rows before it could not
    be used. A row below the position has been taken before and is skipped. A row whose start is
    above the position leaves a gap.
    """

    def __init__(self, position: Position) -> None:
        self._offsets = dict(position.offsets)
        self._last_partition = position.last_partition
        self.skipped_rows = 0

    @property
    def position(self) -> Position:
        """The position after all rows admitted so far."""
        return Position(dict(self._offsets), self._last_partition)

    def admit(self, partition: Array, start: Array, offset: Array) -> Array:
        """Returns which stripes are new, and moves the position after them.

        Args:
            partition: int32[stripes, shards], the partition of each row of each stripe.
            start: int64[stripes, shards].
            offset: int64[stripes, shards].

        Returns:
            bool[stripes]: True where a stripe is to be taken.

        Raises:
            GapError: Rows are missing or out of order, or only a part of a stripe is new. The
                position does not change.
        """
        is_new = np.zeros(partition.size, dtype=bool)
        first, last = start.ravel(), offset.ravel()
        offsets = dict(self._offsets)
        for number, here in _rows_by_partition(partition.ravel()):
            is_new[here] = new = self._new_rows(number, first[here], last[here])
            if new.any():
                offsets[number] = int(last[here][new][-1]) + 1
        if is_new.size and is_new.all():
            self._offsets, self._last_partition = offsets, int(partition[-1, -1])
            return np.ones(len(partition), dtype=bool)
        new_rows = is_new.reshape(partition.shape)
        new_stripes: Array = new_rows.all(axis=1)
        partial = new_rows.any(axis=1) & ~new_stripes
        if partial.any():
            place = int(np.flatnonzero(partial)[0])
            raise GapError(
                "only a part of a stripe of rows is new, the shards no longer step together: "
                f"partitions {partition[place].tolist()}, offsets {offset[place].tolist()}"
            )
        self._offsets = offsets
        self.skipped_rows += int(np.count_nonzero(~new_rows))
        if new_stripes.any():
            self._last_partition = int(partition[new_stripes][-1, -1])
        return new_stripes

    def _new_rows(self, number: int, start: Array, offset: Array) -> Array:
        """Which rows of one partition are new; checks that they follow without a gap."""
        expected = self._offsets.get(number, 0)
        if start[0] <= expected <= offset[0] and _follow_one_another(start, offset):
            return np.ones(len(offset), dtype=bool)  # nearly all windows
        new: Array = offset >= expected
        if not new.any():
            return new
        start, offset = start[new], offset[new]
        if (offset[1:] <= offset[:-1]).any():
            raise GapError(f"partition {number}: offsets are out of order: {offset.tolist()}")
        follows = np.concatenate(([expected], offset[:-1] + 1))
        gaps = np.flatnonzero(start > follows)
        if gaps.size:
            place = int(gaps[0])
            raise GapError(
                f"partition {number}: rows are missing from offset {int(follows[place])} "
                f"to {int(start[place]) - 1}"
            )
        return new


def _follow_one_another(start: Array, offset: Array) -> bool:
    """Whether each row begins where the one before it ends."""
    return bool((start[1:] == offset[:-1] + 1).all() and (start <= offset).all())


def advance(position: Position, partition: Array, offset: Array) -> Position:
    """The position after some rows in stream order.

    Args:
        position: The position before them.
        partition: int32[rows].
        offset: int64[rows].
    """
    if not partition.size:
        return position
    return advance_over(position, row_ranges(partition, offset), int(partition[-1]))


def advance_over(position: Position, ranges: Iterable[RowRange], last_partition: int) -> Position:
    """The position after rows that cover these ranges; the last row is of ``last_partition``."""
    offsets = dict(position.offsets)
    for covered in ranges:
        offsets[covered.partition] = covered.last_offset + 1
    empty = {number: end for number, end in position.empty_until.items() if end > offsets[number]}
    return Position(offsets, last_partition, empty)


def row_ranges(partition: Array, offset: Array) -> list[RowRange]:
    """The ranges that some rows cover, one for each partition among them."""
    return ranges_of_batches(partition[None], offset[None])[0]


def ranges_of_batches(partition: Array, offset: Array) -> list[list[RowRange]]:
    """The ranges that each batch covers, one for each partition in it.

    Args:
        partition: int32[batches, rows], in stream order.
        offset: int64[batches, rows].
    """
    rows = partition.shape[1]
    if partition.size and (partition == partition[0, 0]).all():
        # One partition alone is a common case, and costs little.
        number = int(partition[0, 0])
        ends = zip(offset[:, 0].tolist(), offset[:, -1].tolist())
        return [[RowRange(number, first, last, rows)] for first, last in ends]
    found: list[list[RowRange]] = [[] for _ in partition]
    ends_of_batches = rows * np.arange(len(partition) + 1)
    for number, here in _rows_by_partition(partition.ravel()):
        places = np.flatnonzero(here)  # a mask: there are several partitions
        bounds = np.searchsorted(places, ends_of_batches)
        counts = np.diff(bounds)
        batches = np.flatnonzero(counts)
        offsets = offset.ravel()[places]
        firsts = offsets[bounds[batches]].tolist()
        lasts = offsets[bounds[batches + 1] - 1].tolist()
        for batch, first, last, count in zip(
            batches.tolist(), firsts, lasts, counts[batches].tolist()
        ):
            found[batch].append(RowRange(number, first, last, count))
    return found


def _rows_by_partition(partition: Array) -> Iterator[tuple[int, Any]]:
    """Each partition among some rows, and an index of its rows."""
    numbers = np.flatnonzero(np.bincount(partition)).tolist()
    for number in numbers:
        # One partition alone is a common case, and a mask costs.
        yield number, np.s_[:] if len(numbers) == 1 else partition == number


@dataclass(frozen=True)
class Commit:
    """What the group has committed: a position, and the session of the trainer that committed it.

    The session is 0 where only a consumer has committed, at the very start of a stream. ``ranks``
    is how many ranks the trainer has, 0 where that is unknown. ``topic_id`` is Kafka's own name of
    the topic, "" where that is unknown.
    """

    position: Position
    session: int
    ranks: int = 0
    topic_id: str = ""

    def metadata(self, partition: int) -> str:
        """The text that Kafka keeps beside the offset of a partition."""
        position = self.position
        fields: dict[str, Any] = {
            "session": self.session,
            "last_partition": position.last_partition,
        }
        if self.ranks:
            fields["ranks"] = self.ranks
        if self.topic_id:
            fields["topic_id"] = self.topic_id
        if partition in position.empty_until:
            fields["empty_from"] = position.offsets[partition]
        return json.dumps(fields)

    @staticmethod
    def from_offsets(offsets: Mapping[int, int], metadata: Mapping[int, str | None]) -> Commit:
        """Reads offsets and metadata by partition; a foreign commit counts as session 0."""
        read = {number: _CommitFields.read(text) for number, text in metadata.items()}
        first = next(iter(read.values()), _CommitFields())
        begins = {
            number: fields.empty_from
            for number, fields in read.items()
            if fields.session == first.session
            and fields.empty_from is not None
            and 0 <= fields.empty_from < offsets[number]
        }
        position = Position(
            {**offsets, **begins},
            first.last_partition,
            {number: offsets[number] for number in begins},
        )
        return Commit(position, first.session, first.ranks, first.topic_id)


@dataclass(frozen=True)
class _CommitFields:
    """What the metadata of a partition's commit says."""

    session: int = 0
    last_partition: int = -1
    ranks: int = 0
    topic_id: str = ""
    empty_from: int | None = None

    @staticmethod
    def read(metadata: str | None) -> _CommitFields:
        """Reads the text; one that is not ours counts as none."""
        try:
            fields = json.loads(metadata or "{}")
            empty_from = fields.get("empty_from")
            return _CommitFields(
                int(fields.get("session", 0)),
                int(fields.get("last_partition", -1)),
                int(fields.get("ranks", 0)),
                str(fields.get("topic_id", "")),
                None if empty_from is None else int(empty_from),
            )
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            return _CommitFields()
