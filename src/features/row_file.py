"""Criteo files read block by block, for what trains or scores without a stream."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Optional

import numpy as np

from src.dictionaries.growth import Growth
from src.dictionaries.vocabulary import Change
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.rows.criteo import ParsedRows, is_header, parse_messages

logger = logging.getLogger(__name__)

BLOCK_ROWS = 4096
NAMED_BAD_ROWS = 10


class RowFileError(ValueError):
    """The file is no Criteo file; one line says why."""


@dataclass(frozen=True, eq=False)
class FileBatch:
    """Rows of a file as a training step takes them.

    Attributes:
        ids: int32[batch, 39].
        weights: float32[batch, 39].
        labels: float32[batch, 1].
        oov: uint32[batch], see ``oov.oov_bits``.
        change: What the batch has changed in a growing vocabulary; None without one.
    """

    ids: Array
    weights: Array
    labels: Array
    oov: Array
    change: Optional[Change]


def parsed_blocks(
    path: Path, skip: int = 0, limit: Optional[int] = None
) -> Iterator[tuple[int, ParsedRows]]:
    """(lines read, the rows among them) of a file, at most 4,096 lines at a time.

    The first bad rows are named in the log, by file and line.

    Args:
        path: The file; the label comes first, there is no header.
        skip: Lines at its beginning to leave out.
        limit: The most lines to read, None for all.

    Raises:
        RowFileError: The first line is a header.
        OSError: The file can't be read.
    """
    named = 0
    with open(path, "rb") as file:
        lines = islice(file, skip, None if limit is None else skip + limit)
        first_line = skip + 1
        while block := [line.rstrip(b"\r\n") for line in islice(lines, BLOCK_ROWS)]:
            if first_line == 1 and is_header(block[0]):
                raise RowFileError(f"{path}: the first line is a header, none is wanted")
            parsed = parse_messages(block)
            for row in parsed.bad[: max(NAMED_BAD_ROWS - named, 0)]:
                line = first_line + row.index
                logger.warning("bad row: %s:%d, %s: %s", path, line, row.column, row.reason)
            named += len(parsed.bad)
            yield len(block), parsed
            first_line += len(block)


def batches_of_file(
    path: Path,
    features: FeatureBuilder,
    batch_size: int,
    growth: Optional[Growth] = None,
    skip: int = 0,
    limit: Optional[int] = None,
) -> Iterator[FileBatch]:
    """Whole batches of a file's rows, in order; rows too few for one at the end are left out.

    Args:
        path: The file.
        features: Makes ids and weights.
        batch_size: Rows of a batch.
        growth: Gives ids to values that the dictionaries lack, batch by batch.
        skip: Lines at the file's beginning to leave out.
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


def _columns(rows: ParsedRows, features: FeatureBuilder, sends_unknown: bool) -> tuple[Array, ...]:
    """(ids, weights, labels, oov, values) of rows; the values only where they are wanted."""
    ids, weights = features.build(rows)
    columns = (ids, weights, rows.label.reshape(-1, 1), features.oov(ids))
    return (*columns, features.unknown(rows, ids).values) if sends_unknown else columns


def _concatenated(parts: tuple[Array, ...]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _batch(
    columns: tuple[Array, ...], features: FeatureBuilder, growth: Optional[Growth]
) -> FileBatch:
    ids, weights, labels, oov = columns[:4]
    change = None
    if growth is not None:
        ids, oov, change = growth.grow(ids, oov, columns[4], features.free_ids)
    return FileBatch(ids, weights, labels, oov, change)
