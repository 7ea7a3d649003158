"""A window of rows: its layout on the channel, its stripe order, the merge and the closing rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from src.dictionaries.oov import UnknownValues
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, FIELD_SIZE

DEFAULT_MAX_WINDOW_SIZE = 10_000


def window_dtype(num_shards: int, value_bytes: int = 0) -> np.dtype[Any]:
    """The layout of a window row.

    ``id``, ``weight`` and ``label`` are the features. The rest is provenance: a stripe is
    ``num_shards`` consecutive rows of the stream, one for each shard, and every row carries
    ``partition``, ``start`` and ``offset`` of its whole stripe, so that one rank alone knows the
    global position. A row covers the offsets ``start..offset`` of its partition; they differ where
    bad rows came before it. ``timestamp`` is the Kafka message's, in ms; ``session`` names the
    trainer for which the consumer reads; ``dictionaries`` is the fingerprint of the dictionaries.
    ``dense_transform`` is the place in ``DENSE_TRANSFORMS`` of what made the dense fields.
    ``oov`` has a bit for each categorical field that is out of vocabulary: only the consumer has
    the dictionaries, and which ids stand for it is up to whoever made them.

    For a trainer that learns new values, ``value`` has the categorical fields that are out of
    vocabulary, see ``oov.unknown_values_of_column``, and ``free_ids`` the first id that it may
    give to one and the end of those ids.

    Args:
        num_shards: Rows of a stripe.
        value_bytes: Width of a ``value``; 0 where they are not sent.
    """
    learnt = [("value", f"S{value_bytes}", (CATEGORICAL_SIZE,)), ("free_ids", np.int32, (2,))]
    return np.dtype(
        [
            ("id", np.int32, (FIELD_SIZE,)),
            ("weight", np.float32, (FIELD_SIZE,)),
            ("label", np.float32),
            ("partition", np.int32, (num_shards,)),
            ("start", np.int64, (num_shards,)),
            ("offset", np.int64, (num_shards,)),
            ("timestamp", np.int64),
            ("session", np.int64),
            ("dictionaries", np.uint64),
            ("dense_transform", np.uint8),
            ("oov", np.uint32),
            *(learnt if value_bytes else []),
        ]
    )


@dataclass(frozen=True)
class Provenance:
    """Where rows come from, in stream order.

    Attributes:
        partition: int32[rows].
        start: int64[rows], the first offset the row covers.
        offset: int64[rows].
        timestamp: int64[rows], ms since 1970.
    """

    partition: Array
    start: Array
    offset: Array
    timestamp: Array


def make_window(
    ids: Array,
    weights: Array,
    labels: Array,
    provenance: Provenance,
    num_shards: int,
    session: int,
    dictionaries: int,
    oov: Array,
    unknown: Optional[UnknownValues] = None,
    dense_transform: int = 0,
) -> Array:
    """Lays rows out so that equal contiguous slices are the shards' stripes.

    Row j of the stream goes to shard j mod N. As all ranks step together, after k rows on each
    rank exactly the first k · N rows of the stream are trained.

    Args:
        ids: int32[rows, 39] in stream order; rows must be a multiple of num_shards.
        weights: float32[rows, 39].
        labels: float32[rows].
        provenance: Where the rows come from.
        num_shards: N, how many ranks share the stream.
        session: The trainer session the rows are read for.
        dictionaries: Fingerprint of the dictionaries that made the ids.
        oov: uint32[rows], which categorical fields are out of vocabulary, see ``oov_bits``.
        unknown: Their values, in stream order; None where they are not sent.
        dense_transform: The place in ``DENSE_TRANSFORMS`` of what made the dense fields.

    Returns:
        A structured array[rows] of ``window_dtype(…)``, shard by shard.
    """
    rows = len(labels)
    if rows % num_shards:
        raise ValueError(f"{rows} rows can't be shared evenly by {num_shards} shards")
    order = np.arange(rows).reshape(-1, num_shards).T.ravel()
    stripe = order // num_shards
    value_bytes = 0 if unknown is None else unknown.values.dtype.itemsize
    window = np.empty(rows, dtype=window_dtype(num_shards, value_bytes))
    window["id"] = ids[order]
    window["weight"] = weights[order]
    window["label"] = labels[order]
    for name in ("partition", "start", "offset"):
        window[name] = getattr(provenance, name).reshape(-1, num_shards)[stripe]
    window["timestamp"] = provenance.timestamp[order]
    window["session"] = session
    window["dictionaries"] = dictionaries
    window["dense_transform"] = dense_transform
    window["oov"] = oov[order]
    if unknown is not None:
        window["value"] = unknown.values[order]
        window["free_ids"] = unknown.free_ids
    return window


def merge_order(
    counts: Sequence[int], exhausted: Sequence[bool], first: int, limit: int
) -> tuple[Array, Array]:
    """Merges the rows waiting in each partition, one from each in turn.

    The order depends only on where the turn starts and on the rows themselves, not on how they
    were fetched: a partition that has more rows in the topic than are here holds the merge up
    rather than losing its turn; one that has none left is passed over.

    Args:
        counts: Rows waiting, by partition.
        exhausted: Whether the topic has no rows beyond those waiting, by partition.
        first: Which partition's turn it is.
        limit: The most rows to take.

    Returns:
        (partition int64[rows], place int64[rows]): from which partition each row of the merge
        comes, and its place among that partition's waiting rows.
    """
    if not counts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    partition = np.repeat(np.arange(len(counts)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    turn = (partition - first) % len(counts)
    order = np.lexsort((turn, place))
    held_up = [
        count * len(counts) + (number - first) % len(counts)
        for number, (count, done) in enumerate(zip(counts, exhausted))
        if not done
    ]
    rank = place[order] * len(counts) + turn[order]
    taken = len(order) if not held_up else int(np.searchsorted(rank, min(held_up)))
    order = order[: min(taken, limit)]
    return partition[order].astype(np.int64), place[order].astype(np.int64)


class ClosingRule:
    """Says when a window closes: after a fixed amount or after a fixed time, whichever is first.

    A window closed by time is cut to a multiple of the shards and the rest opens the next one.
    Time counts from the window's first row. Where the rows of several windows wait already, one
    window takes them together: what a window costs hardly depends on its rows.

    Args:
        window_size: Rows a shard that close a window.
        num_shards: Ranks that share the stream.
        window_seconds: Time after its first row that does.
        max_window_size: The most rows a shard that windows taken together may have; no more than
            one is taken where this is less than two of them.
    """

    def __init__(
        self, window_size: int, num_shards: int, window_seconds: float, max_window_size: int = 0
    ) -> None:
        self.full_rows = window_size * num_shards
        self._most_windows = max(max_window_size // window_size, 1)
        self._num_shards = num_shards
        self._window_seconds = window_seconds
        self._opened_at: Optional[float] = None

    def rows_to_close(self, waiting: int, now: float) -> int:
        """How many of the waiting rows the window that closes now holds; 0 while it stays open.

        Args:
            waiting: Rows collected so far.
            now: A monotonic clock, seconds.
        """
        if waiting == 0:
            self._opened_at = None
            return 0
        if self._opened_at is None:
            self._opened_at = now
        if waiting >= self.full_rows:
            rows = min(waiting // self.full_rows, self._most_windows) * self.full_rows
        elif now - self._opened_at >= self._window_seconds:
            rows = waiting - waiting % self._num_shards
        else:
            rows = 0
        if rows:
            self._opened_at = now if waiting > rows else None
        return rows
