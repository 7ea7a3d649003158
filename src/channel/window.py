"""A window of rows: its layout on the channel and the order of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from src.dictionaries.oov import UnknownValues
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, FIELD_SIZE


def window_dtype(num_shards: int, value_bytes: int = 0, with_keys: bool = False) -> np.dtype[Any]:
    """The layout of a window's row.

    Fields begin at multiples of their element's size, as NumPy is faster with those.

    ``id``, ``weight`` and ``label`` are the features. The rest is provenance. A stripe is
    ``num_shards`` consecutive rows of the stream, one for each shard. Every row carries
    ``partition``, ``start`` and ``offset`` of its whole stripe, so each rank can compute the
    global position alone. A row covers the offsets ``start..offset`` of its partition; they differ
    if bad rows came before it.

    ``timestamp`` is that of the Kafka message, in ms. ``session`` is the trainer session that the
    consumer reads for. ``dictionaries`` is the fingerprint of the dictionaries.
    ``dense_transform`` is an index into ``DENSE_TRANSFORMS``. ``oov`` has one bit for each
    categorical field, set if its value is out of vocabulary. Only the consumer can set it, since
    only the consumer has the dictionaries.

    For a trainer that learns new values, ``value`` holds the out-of-vocabulary values, see
    ``oov.unknown_values_of_column``. ``free_ids`` holds the first id that the trainer may assign
    and the end of those ids. For a trainer that learns crosses, ``key`` holds the fields' keys, see
    ``field_keys``.

    Args:
        num_shards: Rows of a stripe.
        value_bytes: Width of a ``value``; 0 if values are not sent.
        with_keys: Whether keys are sent.
    """
    layout: list[tuple[Any, ...]] = [
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
    ]
    if value_bytes:
        layout += [("value", f"S{value_bytes}", (CATEGORICAL_SIZE,)), ("free_ids", np.int32, (2,))]
    if with_keys:
        layout.append(("key", np.int32, (FIELD_SIZE,)))
    return np.dtype(layout, align=True)


@dataclass(frozen=True)
class Provenance:
    """Where rows come from, in stream order.

    Attributes:
        partition: int32[rows].
        start: int64[rows], the first offset that the row covers.
        offset: int64[rows], the last one.
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
    unknown: UnknownValues | None = None,
    dense_transform: int = 0,
    keys: Array | None = None,
) -> Array:
    """Orders rows so that N equal contiguous slices are the rows of the N shards.

    Row j of the stream goes to shard j mod N. All ranks step together. So after k rows on each
    rank, exactly the first k · N rows of the stream are trained.

    Args:
        ids: int32[rows, 39] in stream order; rows must be a multiple of num_shards.
        weights: float32[rows, 39].
        labels: float32[rows].
        provenance: Where the rows come from.
        num_shards: N, how many ranks share the stream.
        session: The trainer session that the rows are read for.
        dictionaries: Fingerprint of the dictionaries that made the ids.
        oov: uint32[rows], which categorical fields are out of vocabulary, see ``oov_bits``.
        unknown: Their values, in stream order; None if they are not sent.
        dense_transform: Index of the dense columns' transform in ``DENSE_TRANSFORMS``.
        keys: int32[rows, 39], see ``field_keys``; None if they are not sent.

    Returns:
        A structured array[rows] of ``window_dtype(…)``, shard by shard.
    """
    rows = len(labels)
    if rows % num_shards:
        raise ValueError(f"{rows} rows can't be shared evenly by {num_shards} shards")
    order = np.arange(rows).reshape(-1, num_shards).T.ravel()
    stripe = order // num_shards
    value_bytes = 0 if unknown is None else unknown.values.dtype.itemsize
    window = np.empty(rows, dtype=window_dtype(num_shards, value_bytes, keys is not None))
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
    if keys is not None:
        window["key"] = keys[order]
    return window
