"""Batches of a file's rows, for training and scoring without a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.dictionaries.growth import Growth
from src.dictionaries.vocabulary import Change
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.rows.criteo import ParsedRows
from src.rows.row_file import parsed_blocks


@dataclass(frozen=True, eq=False)
class FileBatch:
    """Rows of a file as a training step takes them.

    Attributes:
        ids: int32[batch, 39].
        weights: float32[batch, 39].
        labels: float32[batch, 1].
        oov: uint32[batch], see ``oov.oov_bits``.
        change: What the batch changes in a growing vocabulary; None without one.
    """

    ids: Array
    weights: Array
    labels: Array
    oov: Array
    change: Change | None


def batches_of_file(
    path: Path,
    features: FeatureBuilder,
    batch_size: int,
    growth: Growth | None = None,
    skip: int = 0,
    limit: int | None = None,
) -> Iterator[FileBatch]:
    """Whole batches of a file's rows, in order; an incomplete last batch is left out.

    Args:
        path: The file.
        features: Makes ids and weights.
        batch_size: Rows of a batch.
        growth: Gives ids, batch by batch, to values that the dictionaries lack.
        skip: Lines to leave out at the file's beginning.
        limit: The most lines to read, None for all.

    Raises:
        RowFileError, OSError: As for ``parsed_blocks``.
    """
    waiting: list[tuple[Array, ...]] = []
    for _, rows in parsed_blocks(path, skip, limit):
        waiting.append(_columns(rows, features, growth is not None))
        joined = tuple(_concatenated(parts) for parts in zip(*waiting))
        whole = len(joined[0]) - len(joined[0]) % batch_size
        for begin in range(0, whole, batch_size):
            part = tuple(column[begin : begin + batch_size] for column in joined)
            yield _batch(part, features, growth)
        waiting = [tuple(column[whole:] for column in joined)]


def _columns(rows: ParsedRows, features: FeatureBuilder, with_values: bool) -> tuple[Array, ...]:
    """(ids, weights, labels, oov) of rows, and the unknown values if they are wanted."""
    ids, weights = features.build(rows)
    columns = (ids, weights, rows.label.reshape(-1, 1), features.oov(ids))
    return (*columns, features.unknown(rows, ids).values) if with_values else columns


def _concatenated(parts: tuple[Array, ...]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _batch(
    columns: tuple[Array, ...], features: FeatureBuilder, growth: Growth | None
) -> FileBatch:
    ids, weights, labels, oov = columns[:4]
    change = None
    if growth is not None:
        ids, oov, change = growth.grow(ids, oov, columns[4], features.free_ids)
    return FileBatch(ids, weights, labels, oov, change)
