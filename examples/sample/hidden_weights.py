"""Categorical values and their hidden weights: hashes, so no table has to be kept."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from examples.sample.columns import CATEGORICAL
from examples.sample.distributions import cell_shares
from src.rows.criteo import COLUMNS

UInt32 = npt.NDArray[np.uint32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

DRIFT_ROWS = 1 << 16  # rows in which a drifting weight becomes another one
_LIFETIME_BITS = 15  # a value lives at least 2**15 rows, at most 16 times as long


def tokens_of(place: int, slot: Int64, row: Int64, renews: bool) -> UInt32:
    """The value that holds each slot of a column's popularity list at each row."""
    mixed = _mix(slot.astype(np.uint32), 0x51ED270B + place)
    if not renews:
        return mixed
    # A slot's holder changes every 2**bits rows, at its own moment.
    bits = _LIFETIME_BITS + (mixed & np.uint32(3)) + (mixed >> np.uint32(2) & np.uint32(1))
    moment = row + (mixed >> np.uint32(4)).astype(np.int64)
    generation = moment >> bits.astype(np.int64)
    return _mix(mixed ^ generation.astype(np.uint32), 0x2545F491 + place)


def linear_logit(place: int, value: UInt32, row: Int64) -> Float32:
    """float32[rows]: the hidden weight of each value of a column at each row."""
    shape = CATEGORICAL[place]
    salt = 0x1B873593 + place
    if not shape.drifts:
        return _uniform(_mix(value, salt)) * np.float32(shape.effect)
    epoch = int(row[0]) // DRIFT_ROWS  # one for the whole block, as blocks divide it
    progress = ((row - epoch * DRIFT_ROWS) / DRIFT_ROWS).astype(np.float32)
    before, after = (_uniform(_mix(value, salt + 64 * (epoch + step))) for step in (0, 1))
    return (before + (after - before) * progress) * np.float32(shape.effect)


def interaction_logit(one: tuple[int, UInt32], other: tuple[int, UInt32]) -> Float32:
    """float32[rows], variance about 1: the product of two hidden factors of each column."""
    total: Float32 = np.zeros(len(one[1]), dtype=np.float32)
    for factor in (0, 1):
        left, right = (
            _uniform(_mix(value, 0x6C8E9CF5 + 64 * factor + place)) for place, value in (one, other)
        )
        total = total + left * right
    return np.asarray(total / np.float32(np.sqrt(2)), dtype=np.float32)


@cache
def pair_weights(one: str, other: str) -> Float32:
    """A hidden weight for each pair of cells of two columns, variance 1.

    The weights of different pairs have nothing in common. Over either column they average to 0, so
    neither column has an effect alone.

    Returns:
        float32[cells of one, cells of other]; for cells see ``cell_shares``.
    """
    left, right = (cell_shares(name)[:, np.newaxis] for name in (one, other))
    pair = np.arange(len(left) * len(right), dtype=np.uint32)
    salt = 0x94D049BB + 64 * COLUMNS.index(one) + COLUMNS.index(other)
    weights = _uniform(_mix(pair, salt)).reshape(len(left), len(right)).astype(np.float64)
    weights -= (weights * left).sum(axis=0)
    weights -= (weights * right.T).sum(axis=1, keepdims=True)
    variance = (weights**2 * left * right.T).sum()
    return np.asarray(weights / np.sqrt(variance), dtype=np.float32)


def _mix(values: UInt32, salt: int) -> UInt32:
    """A bijection of 32-bit numbers that looks random; another one for each salt."""
    mixed = values ^ np.uint32(salt * 0x9E3779B1 & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def _uniform(mixed: UInt32) -> Float32:
    """float32, uniform with mean 0 and variance 1."""
    return mixed.view(np.int32) * np.float32(np.sqrt(3) / 2**31)
