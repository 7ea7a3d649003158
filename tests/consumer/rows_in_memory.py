"""A source that holds its rows in memory, and an assembler on it."""

from __future__ import annotations

from typing import cast

import numpy as np

from src.consumer.bad_row_keeper import BadRowKeeper
from src.consumer.counts import ConsumerCounts
from src.consumer.window_assembler import WindowAssembler
from src.dead_letters.dead_letters import DeadLetter
from src.dictionaries.oov import UnknownValues
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.rows.bad_rows import BadRowGuard
from src.rows.criteo import FIELD_SIZE, ParsedRows
from src.stream.position import Commit, Position
from src.stream.record_batches import Unreadable
from src.stream.row_source import HeldRows, RowSource

BAD = b"no row"
DAMAGED = b"\0"


def line(number: int) -> bytes:
    """A row with its number in I1."""
    return b"\t".join([b"1", str(number).encode(), *[b""] * 38])


class NumberFeatures:
    """Features made of I1, so that a test can tell the rows apart."""

    dense_transform = 2
    fingerprint = 3

    def build(self, rows: ParsedRows) -> tuple[Array, Array]:
        numbers = rows.numbers[:, 0].astype(np.int32)
        ids = np.repeat(numbers[:, None], FIELD_SIZE, axis=1)
        return ids, ids.astype(np.float32)

    def oov(self, ids: Array) -> Array:
        return ids[:, 0].astype(np.uint32)

    def unknown(self, rows: ParsedRows, ids: Array) -> UnknownValues:
        values = np.repeat(ids[:, :1].astype("S8"), 26, axis=1)
        return UnknownValues(values, free_ids=(50, 90))


class HeldInMemory:
    """Partitions with fixed messages; an offset is the place in the list.

    A message that begins with ``DAMAGED`` can't be read.
    """

    def __init__(self, partitions: list[list[bytes]]) -> None:
        self._partitions = partitions
        self._next = [0] * len(partitions)

    def seek(self, position: Position) -> None:
        self._next = [position.offsets[part] for part in range(len(self._partitions))]

    def held(self, limit_per_partition: int) -> list[HeldRows]:
        held = []
        for part, messages in enumerate(self._partitions):
            begin = self._next[part]
            raw = messages[begin : begin + limit_per_partition]
            unreadable = {
                begin + place: Unreadable(begin + place, begin + place, value, "why")
                for place, value in enumerate(raw)
                if value.startswith(DAMAGED)
            }
            values = [None if value.startswith(DAMAGED) else value for value in raw]
            offset = np.arange(begin, begin + len(values))
            done = begin + len(values) == len(messages)
            held.append(HeldRows(part, values, offset, offset * 10, done, unreadable))
        return held

    def drop(self, partition: int, rows: int) -> None:
        self._next[partition] += rows


def assembler(
    partitions: list[list[bytes]],
    num_shards: int = 1,
    position: Position | None = None,
    kept: list[DeadLetter] | None = None,
    guard: BadRowGuard | None = None,
    sends_unknown: bool = False,
) -> tuple[WindowAssembler, ConsumerCounts]:
    """An assembler at a position; its bad rows go to ``kept``."""
    counts = ConsumerCounts()
    source = cast(RowSource, HeldInMemory(partitions))
    features = cast(FeatureBuilder, NumberFeatures())
    kept = [] if kept is None else kept
    keeper = BadRowKeeper(kept.extend, guard or BadRowGuard(1.0), counts)
    made = WindowAssembler(source, features, num_shards, "tsv", "clicks", keeper, sends_unknown)
    start = position or Position({part: 0 for part in range(len(partitions))})
    made.begin(Commit(start, session=9))
    return made, counts


def numbers(window: Array | None) -> list[int]:
    assert window is not None
    return cast(list[int], window["id"][:, 0].tolist())
