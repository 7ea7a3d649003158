"""Batches of a file's rows, for training and scoring without a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from src.dictionaries.growing.growth import Growth
from src.dictionaries.growing.vocabulary import Change
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.process.files import PathLike
from src.rows.bad_rows import DEFAULT_MAX_BAD_FRACTION
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
        keys: int32[batch, 39], see ``field_keys``; None where they are not wanted.
        change: What the batch changes in a growing vocabulary; None without one.
    """

    ids: Array
    weights: Array
    labels: Array
    oov: Array
    keys: Array | None
    change: Change | None

    @property
    def inputs(self) -> tuple[Array, ...]:
        """What the training step takes: ids, weights, labels and, where wanted, keys."""
        batch = (self.ids, self.weights, self.labels)
        return batch if self.keys is None else (*batch, self.keys)


def batches_of_file(
    path: PathLike,
    features: FeatureBuilder,
    batch_size: int,
    growth: Growth | None = None,
    skip: int = 0,
    limit: int | None = None,
    with_keys: bool = False,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
) -> Iterator[FileBatch]:
    """Whole batches of a file's rows, in order; an incomplete last batch is left out.

    Args:
        path: The file.
        features: Makes ids and weights.
        batch_size: Rows of a batch.
        growth: Gives ids, batch by batch, to values that the dictionaries lack.
        skip: Lines to leave out at the file's beginning.
        limit: The most lines to read, None for all.
        with_keys: Whether batches have the keys of the fields.
        max_bad_fraction: See ``BadRowGuard``.

    Raises:
        RowFileError: As for ``parsed_blocks``.
    """
    waiting: list[dict[str, Array]] = []
    for _, rows in parsed_blocks(path, skip, limit, max_bad_fraction):
        waiting.append(_columns(rows, features, growth is not None, with_keys))
        joined = {name: _concatenated([part[name] for part in waiting]) for name in waiting[0]}
        whole = len(joined["id"]) - len(joined["id"]) % batch_size
        for begin in range(0, whole, batch_size):
            part = {name: column[begin : begin + batch_size] for name, column in joined.items()}
            yield _batch(part, features, growth)
        waiting = [{name: column[whole:] for name, column in joined.items()}]


def _columns(
    rows: ParsedRows, features: FeatureBuilder, with_values: bool, with_keys: bool
) -> dict[str, Array]:
    """``id``, ``weight``, ``label`` and ``oov`` of rows; ``value`` and ``key`` if wanted."""
    ids, weights = features.build(rows)
    label = rows.label.reshape(-1, 1)
    columns = {"id": ids, "weight": weights, "label": label, "oov": features.oov(ids)}
    if with_values:
        columns["value"] = features.unknown(rows, ids).values
    if with_keys:
        columns["key"] = features.keys(rows)
    return columns


def _concatenated(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _batch(columns: dict[str, Array], features: FeatureBuilder, growth: Growth | None) -> FileBatch:
    ids, oov, change = columns["id"], columns["oov"], None
    if growth is not None:
        ids, oov, change = growth.grow(ids, oov, columns["value"], features.free_ids)
    return FileBatch(ids, columns["weight"], columns["label"], oov, columns.get("key"), change)
