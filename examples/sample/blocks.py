"""Blocks of rows, each made from its own random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from examples.sample.columns import CATEGORICAL, DENSE, INTERACTIONS, PAIRS
from examples.sample.distributions import (
    cells_of,
    dense_distribution,
    dense_effects,
    drawn,
    is_there,
    zipf_distribution,
)
from examples.sample.hidden_weights import (
    DRIFT_ROWS,
    interaction_logit,
    linear_logit,
    pair_weights,
    tokens_of,
)
from src.rows.criteo import CATEGORICAL_COLUMNS, COLUMNS, DENSE_COLUMNS, DENSE_SIZE, LABEL

Bool = npt.NDArray[np.bool_]
UInt32 = npt.NDArray[np.uint32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BLOCK_ROWS = 1 << 14
_BIAS = -1.12
_CLICK_RATE_SWING = 0.3  # in logits, over four DRIFT_ROWS


@dataclass(frozen=True)
class Block:
    """Some rows, column by column.

    Attributes:
        label: bool[rows].
        probability: float64[rows], that the label is 1.
        dense: For each dense column int64[rows] and bool[rows], whether it is there.
        tokens: For each categorical column uint32[rows] and bool[rows], whether it is there.
    """

    label: Bool
    probability: Float64
    dense: Sequence[tuple[Int64, Bool]]
    tokens: Sequence[tuple[UInt32, Bool]]

    def __getitem__(self, rows: slice) -> Block:
        return Block(
            self.label[rows],
            self.probability[rows],
            [(values[rows], there[rows]) for values, there in self.dense],
            [(values[rows], there[rows]) for values, there in self.tokens],
        )

    def every(self, first: int, step: int) -> Block:
        """Every ``step``-th row, from row ``first``."""
        return self if step == 1 else self[first::step]

    def to_table(self) -> pa.Table:
        """The rows as a table of the 40 columns."""
        arrays = [pa.array(self.label.astype(np.int64))]
        arrays += [pa.array(values, mask=~there) for values, there in self.dense]
        arrays += [_hexadecimal(tokens, there) for tokens, there in self.tokens]
        return pa.table(arrays, schema=SCHEMA)


SCHEMA = pa.schema(
    [(column, pa.int64()) for column in (LABEL, *DENSE_COLUMNS)]
    + [(column, pa.string()) for column in CATEGORICAL_COLUMNS]
)


def blocks(start_row: int, rows: int, seed: int) -> Iterator[Block]:
    """The blocks that hold some rows, cut to those rows."""
    if min(start_row, rows, seed) < 0:
        raise ValueError(
            f"start_row, rows and seed must not be negative: {start_row}, {rows}, {seed}"
        )
    end_row = start_row + rows
    for number in range(start_row // BLOCK_ROWS, -(-end_row // BLOCK_ROWS)):
        first = number * BLOCK_ROWS
        block = _make_block(number, seed)
        yield block[max(start_row - first, 0) : end_row - first]


def _make_block(number: int, seed: int) -> Block:
    """Block ``number`` of a seed, from its own random numbers."""
    # random_raw is the one output that NumPy promises never to change.
    generator = np.random.PCG64(np.random.SeedSequence([seed, number]))
    draws = generator.random_raw((len(COLUMNS), BLOCK_ROWS))
    row = np.arange(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
    dense = []
    tokens = []
    slots = []
    logit = _BIAS + _CLICK_RATE_SWING * np.sin(row * (np.pi / (2 * DRIFT_ROWS)))
    for place, column in enumerate(DENSE):
        draw = draws[1 + place]
        values, bucket = drawn(draw, dense_distribution(place))
        there = is_there(draw, column.missing)
        if column.effect:
            logit += np.where(there, dense_effects(place)[bucket], np.float32(0))
        dense.append((values, there))
    for place, shape in enumerate(CATEGORICAL):
        draw = draws[1 + DENSE_SIZE + place]
        slot, _ = drawn(draw, zipf_distribution(shape.size))
        value = tokens_of(place, slot, row, shape.renews)
        there = is_there(draw, shape.missing)
        if shape.missing:
            value[~there] = 0xFFFFFFFF  # missing has a hidden weight of its own
        logit += linear_logit(place, value, row)
        tokens.append((value, there))
        slots.append((slot, there))
    logit += _joint_logit(tokens, dict(zip(COLUMNS[1:], [*dense, *slots])))
    probability = 1 / (1 + np.exp(-logit))
    label = (draws[0] >> np.uint64(11)) * 2.0**-53 < probability
    return Block(label, probability, dense, tokens)


def _joint_logit(
    tokens: Sequence[tuple[UInt32, Bool]], numbers: Mapping[str, tuple[Int64, Bool]]
) -> Float32:
    """float32[rows]: what pairs of columns add to the logit.

    Args:
        tokens: As in ``Block``.
        numbers: For each column the dense values or the slots, and whether they are there.
    """
    total: Float32 = np.zeros(BLOCK_ROWS, dtype=np.float32)
    for one, other, effect in INTERACTIONS:
        left, right = (
            (place, tokens[place][0]) for place in map(CATEGORICAL_COLUMNS.index, (one, other))
        )
        total += np.float32(effect) * interaction_logit(left, right)
    for one, other, effect in PAIRS:
        cells = tuple(cells_of(name, *numbers[name]) for name in (one, other))
        total += np.float32(effect) * pair_weights(one, other)[cells]
    return total


_FOUR_DIGITS = np.frombuffer(
    "".join(f"{number:04x}" for number in range(1 << 16)).encode(), dtype=np.uint32
)


def _hexadecimal(tokens: UInt32, there: Bool) -> pa.Array:
    """8 hexadecimal digits for each number, written straight into Arrow's buffers."""
    digits = np.empty((len(tokens), 2), dtype=np.uint32)
    digits[:, 0] = _FOUR_DIGITS[tokens >> np.uint32(16)]
    digits[:, 1] = _FOUR_DIGITS[tokens & np.uint32(0xFFFF)]
    offsets = np.arange(0, 8 * len(tokens) + 1, 8, dtype=np.int32)
    validity = np.packbits(there, bitorder="little")
    return pa.StringArray.from_buffers(
        len(tokens), pa.py_buffer(offsets), pa.py_buffer(digits), pa.py_buffer(validity)
    )
