"""Makes windows of features from the rows that the source holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Callable

import numpy as np

from src.channel.merge_order import merge_order
from src.channel.window import Provenance, make_window
from src.consumer.bad_row_keeper import BadRowKeeper
from src.dead_letters.dead_letters import MESSAGE, DeadLetter
from src.dictionaries.oov import UnknownValues
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.rows.criteo import ParsedRows
from src.rows.parsing import parse_messages
from src.stream.position import Commit, Position, advance
from src.stream.row_source import HeldRows, RowSource

Watch = Callable[[Array, Array, Array], None]
"""Called with (label float32[rows], dense float64[rows, 13], oov uint32[rows]) of each window."""


@dataclass(frozen=True)
class _Parsed:
    """The held rows that a window could take, parsed, partition after partition."""

    held: Sequence[HeldRows]
    rows: ParsedRows
    partition: Array
    """int64[messages], each message's index in ``held``."""
    place: Array
    """int64[messages], its place among that partition's held rows."""


class WindowAssembler:
    """Takes rows from the source in merge order and makes windows of them.

    Args:
        source: Holds the rows.
        features: The column functions: makes ids and weights.
        num_shards: Ranks that share the stream.
        value_format: Wire format of a row.
        topic: The topic that the rows come from.
        bad_rows: Keeps the bad rows.
        sends_unknown: Whether out-of-vocabulary values are sent, for a trainer that learns them.
        sends_keys: Whether the fields' keys are sent, for a trainer that learns crosses.
        watch: Called with each window's rows.
    """

    def __init__(
        self,
        source: RowSource,
        features: FeatureBuilder,
        num_shards: int,
        value_format: str,
        topic: str,
        bad_rows: BadRowKeeper,
        sends_unknown: bool = False,
        sends_keys: bool = False,
        watch: Watch = lambda labels, dense, oov: None,
    ) -> None:
        self._source = source
        self._features = features
        self._num_shards = num_shards
        self._value_format = value_format
        self._topic = topic
        self._bad_rows = bad_rows
        self._sends_unknown = sends_unknown
        self._sends_keys = sends_keys
        self._watch = watch
        self._position = Position({})
        self._session = 0

    def begin(self, commit: Commit) -> None:
        """Drops the held rows and reads on from a commit's position, for its session."""
        self._position = commit.position
        self._session = commit.session
        self._bad_rows.begin(commit.position)
        self._source.seek(commit.position)

    def row_offsets(self) -> Mapping[int, int]:
        """Partition → the offset after its last row in a window."""
        return self._position.offsets

    def take(self, limit: int) -> Array | None:
        """The next window of at most ``limit`` rows in merge order; None if there is none yet.

        When it is returned, the bad rows that it covers are safe. So are those right after it.

        Raises:
            BrokenFeedError: Too many of the last rows are bad.
        """
        parsed = self._parse(limit)
        if not len(parsed.place):
            return None
        chosen = self._choose(parsed, limit)
        window = self._make_window(parsed, chosen) if len(chosen) else None
        self._release(parsed, chosen)
        return window

    def _parse(self, limit: int) -> _Parsed:
        """Parses the rows that the merge would take if all of them were good."""
        held = self._source.held(limit)
        counts = [len(rows.values) for rows in held]
        partition, place = merge_order(
            counts, [rows.exhausted for rows in held], self._next_partition(held), limit
        )
        order = np.lexsort((place, partition))
        taken = np.bincount(partition, minlength=len(held))
        values = [value for rows, count in zip(held, taken) for value in rows.values[: int(count)]]
        parsed = parse_messages(values, self._value_format)
        return _Parsed(held, parsed, partition[order], place[order])

    def _choose(self, parsed: _Parsed, limit: int) -> Array:
        """The good rows of the next window in stream order, as int64 indices of good rows."""
        good_partition = parsed.partition[parsed.rows.index]
        good_counts = [
            int(np.count_nonzero(good_partition == number)) for number in range(len(parsed.held))
        ]
        seen = np.bincount(parsed.partition, minlength=len(parsed.held))
        exhausted = [
            held.exhausted and seen[number] == len(held.values)
            for number, held in enumerate(parsed.held)
        ]
        partition, place = merge_order(
            good_counts, exhausted, self._next_partition(parsed.held), limit
        )
        rows = len(place) - len(place) % self._num_shards
        first_good = np.concatenate(([0], np.cumsum(good_counts)[:-1])).astype(np.int64)
        chosen: Array = first_good[partition[:rows]] + place[:rows]
        return chosen

    def _next_partition(self, held: Sequence[HeldRows]) -> int:
        """The index in ``held`` of the next partition in round-robin order."""
        numbers = [rows.partition for rows in held]
        last = self._position.last_partition
        return (numbers.index(last) + 1) % len(numbers) if last in numbers else 0

    def _make_window(self, parsed: _Parsed, chosen: Array) -> Array:
        """The window of the chosen good rows."""
        provenance = self._provenance(parsed, chosen)
        ids, weights = self._features.build(parsed.rows)
        labels, oov = parsed.rows.label[chosen], self._features.oov(ids[chosen])
        self._watch(labels, parsed.rows.numbers[chosen], oov)
        window = make_window(
            ids[chosen],
            weights[chosen],
            labels,
            provenance,
            num_shards=self._num_shards,
            session=self._session,
            dictionaries=self._features.fingerprint,
            oov=oov,
            unknown=self._unknown(parsed.rows, ids, chosen),
            dense_transform=self._features.dense_transform,
            keys=self._features.keys(parsed.rows)[chosen] if self._sends_keys else None,
        )
        self._position = advance(self._position, provenance.partition, provenance.offset)
        return window

    def _provenance(self, parsed: _Parsed, chosen: Array) -> Provenance:
        """Where the chosen good rows come from; each row covers the bad rows before it."""
        message = parsed.rows.index[chosen]
        held_number, place = parsed.partition[message], parsed.place[message]
        numbers = np.array([rows.partition for rows in parsed.held], dtype=np.int32)
        start, offset, timestamp = (np.empty(len(chosen), dtype=np.int64) for _ in range(3))
        for number, rows in enumerate(parsed.held):
            here = held_number == number
            if here.any():
                offset[here] = rows.offset[place[here]]
                timestamp[here] = rows.timestamp[place[here]]
                after_previous = offset[here][:-1] + 1
                first = self._position.offsets[rows.partition]
                start[here] = np.concatenate(([first], after_previous))
        return Provenance(numbers[held_number], start, offset, timestamp)

    def _unknown(self, rows: ParsedRows, ids: Array, chosen: Array) -> UnknownValues | None:
        if not self._sends_unknown:
            return None
        unknown = self._features.unknown(rows, ids)
        return UnknownValues(unknown.values[chosen], unknown.free_ids)

    def _release(self, parsed: _Parsed, chosen: Array) -> None:
        """Drops the chosen rows, and the bad rows among and right after them, from the source."""
        window_row = np.full(len(parsed.place), len(chosen), dtype=np.int64)
        window_row[parsed.rows.index[chosen]] = np.arange(len(chosen))
        good = np.zeros(len(parsed.place), dtype=bool)
        good[parsed.rows.index] = True
        released_by_partition: list[Array] = []
        ends: dict[int, int] = {}
        for number, rows in enumerate(parsed.held):
            messages = np.flatnonzero(parsed.partition == number)
            staying = np.flatnonzero(good[messages] & (window_row[messages] == len(chosen)))
            messages = messages[: staying[0]] if staying.size else messages
            if not messages.size:
                continue
            # A bad row goes with the next good row of its partition, which covers it.
            window_row[messages] = np.minimum.accumulate(window_row[messages][::-1])[::-1]
            released_by_partition.append(messages)
            ends[rows.partition] = int(rows.offset[parsed.place[messages[-1]]]) + 1
        if not released_by_partition:
            return
        released = np.concatenate(released_by_partition)
        released = released[np.argsort(window_row[released], kind="stable")]
        bad = self._dead_letters(parsed, released[~good[released]])
        self._bad_rows.keep(bad, good[released], ends)
        for partition, messages in zip(ends, released_by_partition):
            self._source.drop(partition, len(messages))

    def _dead_letters(self, parsed: _Parsed, messages: Array) -> list[DeadLetter]:
        """The dead letters of some bad messages."""
        bad_by_message = {row.index: row for row in parsed.rows.bad}
        now = datetime.now(timezone.utc)
        dead_letters = []
        for message in messages.tolist():
            rows, place = parsed.held[parsed.partition[message]], int(parsed.place[message])
            offset, value, bad = (
                int(rows.offset[place]),
                rows.values[place],
                bad_by_message[message],
            )
            column, reason = bad.column, bad.reason
            unreadable = rows.unreadable.get(offset)
            if unreadable is not None:
                value, column, reason = unreadable.raw, MESSAGE, unreadable.reason
            dead_letters.append(
                DeadLetter(self._topic, rows.partition, offset, value, column, reason, now)
            )
        return dead_letters
