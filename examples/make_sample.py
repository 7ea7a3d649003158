"""Makes Criteo-like rows: as many as you like, the same ones every time, with clicks to learn.

    python examples/make_sample.py --rows 20000 --output output1.tsv output2.tsv

With several files the rows are dealt to them in turn, so that each file is in the order of time.
A row depends on its number and the seed alone: ``--start_row 1000000`` goes on where a run of a
million rows ended. Another seed gives other rows of the same world: the same values with the
same hidden weights, so that one seed can be learned from and another be tested on.

What the world is like:

* Categorical columns have the public data set's sizes (3 to 200,000 values), Zipf-distributed,
  and about its shares of missing values. Values are 8 hexadecimal digits.
* Dense columns are log-normal counts; I2 goes down to -3.
* Whether a row is clicked is drawn from a logistic model: a hidden weight for each value, a
  product of hidden factors for some pairs of columns (which a linear model cannot learn), and
  curves of some dense columns. About a quarter of the rows are clicked.
* The world drifts. In the larger columns each place on the popularity list is taken over by a
  new value every 32,768 to 524,288 rows; some columns' weights are blended into new ones over
  65,536 rows; and the click rate swings slowly.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
from tqdm import tqdm

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.process.files import PathLike, atomic_writer
from src.rows.criteo import CATEGORICAL_COLUMNS, COLUMNS, DENSE_COLUMNS, DENSE_SIZE, LABEL

logger = logging.getLogger("make_sample")

UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BLOCK_ROWS = 1 << 14
DRIFT_ROWS = 1 << 16  # rows in which a drifting weight becomes another one
_LIFETIME_BITS = 15  # a value lives at least 2**15 rows, at most 16 times as long
_BIAS = -1.05
_CLICK_RATE_SWING = 0.3  # in logits, over four DRIFT_ROWS

# A 64-bit draw decides a field: 10 bits pick a bucket of the distribution, 32 a place in it, and
# 22 whether the field is missing.
_BUCKETS = 1 << 10
_PLACE_SHIFT, _MISSING_SHIFT, _MISSING_BITS = 10, 42, 22


@dataclass(frozen=True)
class _Dense:
    """A dense column: a log-normal count.

    Attributes:
        median: Its median.
        sigma: Standard deviation of its logarithm.
        missing: Share of missing values.
        effect: Logits for a z-score of 1, and the curve: "line" or "bend" (high at both ends).
        shift: Added to every value.
    """

    median: float
    sigma: float
    missing: float
    effect: float = 0.0
    curve: str = "line"
    shift: int = 0


@dataclass(frozen=True)
class _Categorical:
    """A categorical column.

    Attributes:
        size: Values alive at any time.
        missing: Share of missing values.
        effect: Standard deviation of its values' hidden weights, in logits.
        drifts: Whether those weights change.
        renews: Whether its values are replaced by new ones.
    """

    size: int
    missing: float
    effect: float
    drifts: bool = False
    renews: bool = False


_DENSE = (
    _Dense(1.5, 1.3, 0.45, 0.1),
    _Dense(6, 1.6, 0.0, shift=-3),
    _Dense(6, 1.4, 0.21),
    _Dense(5, 0.7, 0.22, 0.15, "bend"),
    _Dense(2500, 2.0, 0.03),
    _Dense(32, 1.6, 0.22, -0.1),
    _Dense(4, 0.8, 0.04, 0.18),
    _Dense(9, 0.7, 0.0, -0.15, "bend"),
    _Dense(38, 1.4, 0.04),
    _Dense(1.2, 0.5, 0.45, 0.15),
    _Dense(2.5, 0.7, 0.04, 0.18),
    _Dense(0.4, 1.0, 0.76),
    _Dense(5, 0.8, 0.22, -0.18),
)
_CATEGORICAL = (
    _Categorical(1460, 0.0, 0.3),
    _Categorical(583, 0.0, 0.35),
    _Categorical(200_000, 0.034, 0.08, renews=True),
    _Categorical(150_000, 0.034, 0.08, renews=True),
    _Categorical(305, 0.0, 0.2),
    _Categorical(24, 0.12, 0.25),
    _Categorical(12_517, 0.0, 0.08, renews=True),
    _Categorical(633, 0.0, 0.25, drifts=True),
    _Categorical(3, 0.0, 0.2),
    _Categorical(93_145, 0.0, 0.08, renews=True),
    _Categorical(5683, 0.0, 0.08, renews=True),
    _Categorical(180_000, 0.034, 0.08, renews=True),
    _Categorical(3194, 0.0, 0.08, renews=True),
    _Categorical(27, 0.0, 0.35),
    _Categorical(14_992, 0.0, 0.08, renews=True),
    _Categorical(160_000, 0.034, 0.08, renews=True),
    _Categorical(10, 0.0, 0.35, drifts=True),
    _Categorical(5652, 0.0, 0.25, drifts=True, renews=True),
    _Categorical(2173, 0.44, 0.2),
    _Categorical(4, 0.44, 0.2),
    _Categorical(170_000, 0.034, 0.08, renews=True),
    _Categorical(18, 0.76, 0.3),
    _Categorical(15, 0.0, 0.3),
    _Categorical(100_000, 0.034, 0.08, renews=True),
    _Categorical(105, 0.44, 0.3),
    _Categorical(60_000, 0.44, 0.08, renews=True),
)
# (one column, another, logits of the interaction's standard deviation)
_INTERACTIONS = (
    ("C6", "C14", 0.45),
    ("C9", "C17", 0.45),
    ("C14", "C23", 0.45),
    ("C2", "C20", 0.4),
    ("C5", "C9", 0.4),
    ("C17", "C23", 0.4),
)
_ZIPF_EXPONENT = 1.05


def make_rows(start_row: int, rows: int, seed: int = 0) -> pa.Table:
    """Makes rows ``start_row`` to ``start_row + rows`` of the endless stream of a seed.

    Args:
        start_row: Number of the first row, from 0.
        rows: How many rows.
        seed: Which stream; not negative.

    Returns:
        A table of the 40 columns: label and dense columns int64, categorical columns strings,
        null where missing.

    Raises:
        ValueError: A number is negative.
    """
    tables = [block.to_table() for block in _blocks(start_row, rows, seed)]
    return pa.concat_tables(tables) if tables else _SCHEMA.empty_table()


def click_probabilities(start_row: int, rows: int, seed: int = 0) -> Float64:
    """The true probability that each of these rows is clicked: what the best model would say.

    Args:
        start_row: As in ``make_rows``.
        rows: As in ``make_rows``.
        seed: As in ``make_rows``.

    Returns:
        float64[rows].
    """
    parts = [block.probability for block in _blocks(start_row, rows, seed)]
    return np.concatenate(parts) if parts else np.empty(0)


def write_sample(
    paths: Sequence[PathLike],
    rows: int,
    seed: int = 0,
    start_row: int = 0,
    show_progress: bool = False,
) -> None:
    """Writes rows into files, in turn if there are several; a file appears when it is whole.

    Args:
        paths: The files; row ``start_row + i`` goes to file ``i % len(paths)``.
        rows: Rows in all files together.
        seed: As in ``make_rows``.
        start_row: As in ``make_rows``.
        show_progress: Show a progress bar on a terminal.

    Raises:
        ValueError: A number is negative or a file is named twice.
        OSError: A file cannot be written.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"a file is named twice: {' '.join(map(str, paths))}")
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    disable = None if show_progress else True  # None: only where a terminal shows it
    with ExitStack() as stack:
        writers = []
        for path in paths:
            file = stack.enter_context(atomic_writer(path, durable=False))
            writer = pa.csv.CSVWriter(file, _SCHEMA, write_options=options)
            writers.append(stack.enter_context(writer))
        bar = stack.enter_context(
            tqdm(total=rows, unit="row", unit_scale=True, disable=disable, desc="writing")
        )
        done = 0
        for block in _blocks(start_row, rows, seed):
            for place, writer in enumerate(writers):
                first = (place - done) % len(writers)
                writer.write_table(block.every(first, len(writers)).to_table())
            done += len(block.label)
            bar.update(len(block.label))


# --- one block of rows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """Some rows, column by column.

    Attributes:
        label: bool[rows].
        probability: float64[rows], that the label is 1.
        dense: For each dense column int64[rows] and bool[rows], whether it is there.
        tokens: For each categorical column uint32[rows] and bool[rows], whether it is there.
    """

    label: npt.NDArray[np.bool_]
    probability: Float64
    dense: Sequence[tuple[Int64, npt.NDArray[np.bool_]]]
    tokens: Sequence[tuple[UInt32, npt.NDArray[np.bool_]]]

    def __getitem__(self, rows: slice) -> _Block:
        return _Block(
            self.label[rows],
            self.probability[rows],
            [(values[rows], there[rows]) for values, there in self.dense],
            [(values[rows], there[rows]) for values, there in self.tokens],
        )

    def every(self, first: int, step: int) -> _Block:
        return self if step == 1 else self[first::step]

    def to_table(self) -> pa.Table:
        arrays = [pa.array(self.label.astype(np.int64))]
        arrays += [pa.array(values, mask=~there) for values, there in self.dense]
        arrays += [_hexadecimal(tokens, there) for tokens, there in self.tokens]
        return pa.table(arrays, schema=_SCHEMA)


_SCHEMA = pa.schema(
    [(column, pa.int64()) for column in (LABEL, *DENSE_COLUMNS)]
    + [(column, pa.string()) for column in CATEGORICAL_COLUMNS]
)


def _blocks(start_row: int, rows: int, seed: int) -> Iterator[_Block]:
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


def _make_block(number: int, seed: int) -> _Block:
    """Block ``number`` of a seed, from its own random numbers."""
    # random_raw is the one output that NumPy promises never to change.
    generator = np.random.PCG64(np.random.SeedSequence([seed, number]))
    draws = generator.random_raw((len(COLUMNS), BLOCK_ROWS))
    row = np.arange(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
    dense = []
    tokens = []
    logit = _BIAS + _CLICK_RATE_SWING * np.sin(row * (np.pi / (2 * DRIFT_ROWS)))
    for place, column in enumerate(_DENSE):
        draw = draws[1 + place]
        values, bucket = _distributed(draw, _dense_distribution(place))
        there = _is_there(draw, column.missing)
        if column.effect:
            logit += np.where(there, _dense_effects(place)[bucket], np.float32(0))
        dense.append((values, there))
    for place, shape in enumerate(_CATEGORICAL):
        draw = draws[1 + DENSE_SIZE + place]
        slot, _ = _distributed(draw, _zipf_distribution(shape.size))
        value = _tokens(place, slot, row, shape.renews)
        there = _is_there(draw, shape.missing)
        if shape.missing:
            value[~there] = 0xFFFFFFFF  # missing has a hidden weight of its own
        logit += _linear_logit(place, value, row)
        tokens.append((value, there))
    for one, other, effect in _INTERACTIONS:
        logit += np.float32(effect) * _interaction(
            *((place, tokens[place][0]) for place in map(CATEGORICAL_COLUMNS.index, (one, other)))
        )
    probability = 1 / (1 + np.exp(-logit))
    label = (draws[0] >> np.uint64(11)) * 2.0**-53 < probability
    return _Block(label, probability, dense, tokens)


# --- distributions, as tables of 1024 equally likely buckets; integers only, the same everywhere --


@dataclass(frozen=True)
class _Distribution:
    """Bucket b holds the values from start[b], width[b] of them, all equally likely."""

    start: Int64
    width: UInt64


def _distribution(quantile: Callable[[float], float], low: int) -> _Distribution:
    """The distribution whose share ``p`` lies below ``quantile(p)``."""
    edges = [max(low, round(quantile(bucket / _BUCKETS))) for bucket in range(1, _BUCKETS)]
    last = max(low, round(quantile(1 - 2.0**-16)))
    start = np.array([low, *edges], dtype=np.int64)
    width = np.maximum(np.diff(start, append=last + 1), 1)
    return _Distribution(start, width.astype(np.uint64))


@cache
def _dense_distribution(place: int) -> _Distribution:
    column = _DENSE[place]
    normal = NormalDist(0, column.sigma)

    def quantile(share: float) -> float:
        return float(column.median * np.exp(normal.inv_cdf(share)) - 0.5 + column.shift)

    return _distribution(quantile, column.shift)


@cache
def _dense_effects(place: int) -> Float32:
    """float32[1024]: the logits of each bucket, by the z-score of its values' logarithm."""
    column = _DENSE[place]
    values = _dense_distribution(place).start - column.shift
    score = np.log(np.maximum(values, 0.5) / column.median) / column.sigma
    if column.curve == "bend":
        score = (score**2 - 1) / np.sqrt(2)
    return np.asarray(column.effect * (score - score.mean()), dtype=np.float32)


@cache
def _zipf_distribution(size: int) -> _Distribution:
    """Slots 0 (the most popular) to size - 1."""
    power = 1 - _ZIPF_EXPONENT
    top = (size + 1.0) ** power - 1

    def quantile(share: float) -> float:
        rank = math.floor((share * top + 1) ** (1 / power) - 1)
        return float(min(rank, size - 1))

    return _distribution(quantile, 0)


def _distributed(draw: UInt64, distribution: _Distribution) -> tuple[Int64, Int64]:
    """(values, buckets) of some draws."""
    bucket = (draw & np.uint64(_BUCKETS - 1)).astype(np.int64)
    place = draw >> np.uint64(_PLACE_SHIFT) & np.uint64(0xFFFFFFFF)
    within = place * distribution.width[bucket] >> np.uint64(32)
    return distribution.start[bucket] + within.astype(np.int64), bucket


def _is_there(draw: UInt64, missing: float) -> npt.NDArray[np.bool_]:
    threshold = int(missing * (1 << _MISSING_BITS))
    return (draw >> np.uint64(_MISSING_SHIFT)) >= np.uint64(threshold)


# --- values and their hidden weights: hashes, so no table has to be kept -------------------


def _tokens(place: int, slot: Int64, row: Int64, renews: bool) -> UInt32:
    """The value that holds each slot of a column's popularity list at each row."""
    mixed = _mix(slot.astype(np.uint32), 0x51ED270B + place)
    if not renews:
        return mixed
    # A slot's holder changes every 2**bits rows, at its own moment.
    bits = _LIFETIME_BITS + (mixed & np.uint32(3)) + (mixed >> np.uint32(2) & np.uint32(1))
    moment = row + (mixed >> np.uint32(4)).astype(np.int64)
    generation = moment >> bits.astype(np.int64)
    return _mix(mixed ^ generation.astype(np.uint32), 0x2545F491 + place)


def _linear_logit(place: int, value: UInt32, row: Int64) -> Float32:
    """float32[rows]: the hidden weight of each value of a column at each row."""
    shape = _CATEGORICAL[place]
    salt = 0x1B873593 + place
    if not shape.drifts:
        return _uniform(_mix(value, salt)) * np.float32(shape.effect)
    epoch = int(row[0]) // DRIFT_ROWS  # one for the whole block, as blocks divide it
    progress = ((row - epoch * DRIFT_ROWS) / DRIFT_ROWS).astype(np.float32)
    before, after = (_uniform(_mix(value, salt + 64 * (epoch + step))) for step in (0, 1))
    return (before + (after - before) * progress) * np.float32(shape.effect)


def _interaction(one: tuple[int, UInt32], other: tuple[int, UInt32]) -> Float32:
    """float32[rows], variance about 1: the product of two hidden factors of each column."""
    total: Float32 = np.zeros(len(one[1]), dtype=np.float32)
    for factor in (0, 1):
        left, right = (
            _uniform(_mix(value, 0x6C8E9CF5 + 64 * factor + place)) for place, value in (one, other)
        )
        total = total + left * right
    return np.asarray(total / np.float32(np.sqrt(2)), dtype=np.float32)


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


_FOUR_DIGITS = np.frombuffer(
    "".join(f"{number:04x}" for number in range(1 << 16)).encode(), dtype=np.uint32
)


def _hexadecimal(tokens: UInt32, there: npt.NDArray[np.bool_]) -> pa.Array:
    """8 hexadecimal digits for each number, written straight into Arrow's buffers."""
    digits = np.empty((len(tokens), 2), dtype=np.uint32)
    digits[:, 0] = _FOUR_DIGITS[tokens >> np.uint32(16)]
    digits[:, 1] = _FOUR_DIGITS[tokens & np.uint32(0xFFFF)]
    offsets = np.arange(0, 8 * len(tokens) + 1, 8, dtype=np.int32)
    validity = np.packbits(there, bitorder="little")
    return pa.StringArray.from_buffers(
        len(tokens), pa.py_buffer(offsets), pa.py_buffer(digits), pa.py_buffer(validity)
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--rows", type=int, default=20_000, help="rows in all files together (%(default)s)")
    flag(
        "--output",
        nargs="+",
        default=["output1.tsv", "output2.tsv"],
        metavar="FILE",
        help="files to write (output1.tsv output2.tsv); they take the rows in turn",
    )
    flag("--seed", type=int, default=0, help="which rows of the same world (%(default)s)")
    flag("--start_row", type=int, default=0, help="number of the first row (%(default)s)")
    arguments = parser.parse_args(argv)
    for name in ("rows", "seed", "start_row"):
        if getattr(arguments, name) < 0:
            parser.error(f"--{name} must not be negative, not {getattr(arguments, name)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the files; returns the exit code."""
    arguments = parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    started = time.monotonic()
    try:
        write_sample(
            arguments.output,
            arguments.rows,
            seed=arguments.seed,
            start_row=arguments.start_row,
            show_progress=True,
        )
    except (ValueError, OSError) as error:
        logger.error("%s", error)
        return 1
    seconds = time.monotonic() - started
    logger.info(
        *("%d rows in %.1f s (%.0f rows/s) in %s", arguments.rows, seconds),
        *(arguments.rows / seconds, " ".join(arguments.output)),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
