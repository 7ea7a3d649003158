"""Values of a column from random bits.

A distribution is a table of 1024 equally likely buckets. Only integers are computed with, so the
values are the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Callable

import numpy as np
import numpy.typing as npt

from examples.sample.columns import CATEGORICAL, DENSE, ZIPF_EXPONENT
from src.rows.criteo import CATEGORICAL_COLUMNS, DENSE_COLUMNS

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

# A 64-bit draw decides a field: 10 bits pick a bucket of the distribution, 32 a place in it, and
# 22 whether the field is missing.
_BUCKETS = 1 << 10
_PLACE_SHIFT, _MISSING_SHIFT, _MISSING_BITS = 10, 42, 22
# Octave b of a dense column holds the values from 2^b - 1 to 2^(b + 1) - 2 above the lowest one.
_OCTAVES = (1 << np.arange(40, dtype=np.int64)) - 1


@dataclass(frozen=True)
class Distribution:
    """Bucket b holds the values from start[b], width[b] of them, all equally likely."""

    start: Int64
    width: UInt64


def _distribution(quantile: Callable[[float], float], low: int) -> Distribution:
    """The distribution whose share ``p`` lies below ``quantile(p)``."""
    edges = [max(low, round(quantile(bucket / _BUCKETS))) for bucket in range(1, _BUCKETS)]
    last = max(low, round(quantile(1 - 2.0**-16)))
    start = np.array([low, *edges], dtype=np.int64)
    width = np.maximum(np.diff(start, append=last + 1), 1)
    return Distribution(start, width.astype(np.uint64))


@cache
def dense_distribution(place: int) -> Distribution:
    """The distribution of a dense column, by its place."""
    column = DENSE[place]
    normal = NormalDist(0, column.sigma)

    def quantile(share: float) -> float:
        return float(column.median * np.exp(normal.inv_cdf(share)) - 0.5 + column.shift)

    return _distribution(quantile, column.shift)


@cache
def dense_effects(place: int) -> Float32:
    """float32[1024]: the logits of each bucket, by the z-score of its values' logarithm."""
    column = DENSE[place]
    values = dense_distribution(place).start - column.shift
    score = np.log(np.maximum(values, 0.5) / column.median) / column.sigma
    if column.curve == "bend":
        score = (score**2 - 1) / np.sqrt(2)
    return np.asarray(column.effect * (score - score.mean()), dtype=np.float32)


@cache
def zipf_distribution(size: int) -> Distribution:
    """Slots 0 (the most popular) to size - 1."""
    power = 1 - ZIPF_EXPONENT
    top = (size + 1.0) ** power - 1

    def quantile(share: float) -> float:
        rank = math.floor((share * top + 1) ** (1 / power) - 1)
        return float(min(rank, size - 1))

    return _distribution(quantile, 0)


@cache
def cell_shares(name: str) -> npt.NDArray[np.float64]:
    """float64[cells]: the share of the rows that each cell of a column has.

    A cell of a categorical column is a slot, that of a dense column an octave. Cell 0 is that of a
    missing value.
    """
    if name in DENSE_COLUMNS:
        place = DENSE_COLUMNS.index(name)
        table, missing = dense_distribution(place), DENSE[place].missing
        edges = _OCTAVES + DENSE[place].shift
    else:
        column = CATEGORICAL[CATEGORICAL_COLUMNS.index(name)]
        table, missing = zipf_distribution(column.size), column.missing
        edges = np.arange(column.size + 1)
    width = table.width.astype(np.int64)[:, np.newaxis]
    start = table.start[:, np.newaxis]
    there = (np.diff(np.clip(edges, start, start + width)) / width).mean(axis=0)
    return np.concatenate(([missing], (1 - missing) * there))


def cells_of(name: str, number: Int64, there: npt.NDArray[np.bool_]) -> Int64:
    """The cells of a column's slots or dense values; see ``cell_shares``."""
    if name in DENSE_COLUMNS:
        shift = DENSE[DENSE_COLUMNS.index(name)].shift
        number = np.searchsorted(_OCTAVES, number - shift, side="right") - 1
    return np.where(there, number + 1, 0)


def drawn(draw: UInt64, distribution: Distribution) -> tuple[Int64, Int64]:
    """(values, buckets) of some draws."""
    bucket = (draw & np.uint64(_BUCKETS - 1)).astype(np.int64)
    place = draw >> np.uint64(_PLACE_SHIFT) & np.uint64(0xFFFFFFFF)
    within = place * distribution.width[bucket] >> np.uint64(32)
    return distribution.start[bucket] + within.astype(np.int64), bucket


def is_there(draw: UInt64, missing: float) -> npt.NDArray[np.bool_]:
    """bool[rows]: which fields are there, when a share of them is missing."""
    threshold = int(missing * (1 << _MISSING_BITS))
    return (draw >> np.uint64(_MISSING_SHIFT)) >= np.uint64(threshold)
