"""Rows by their numbers, as a table or in files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
from tqdm import tqdm

from examples.sample.best_scores import BestScores, BestScoresCounter
from examples.sample.blocks import SCHEMA, blocks
from src.process.files import PathLike, atomic_writer


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
    tables = [block.to_table() for block in blocks(start_row, rows, seed)]
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def click_probabilities(start_row: int, rows: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """The true probability that each of these rows is clicked: the best possible prediction.

    Args:
        start_row: As in ``make_rows``.
        rows: As in ``make_rows``.
        seed: As in ``make_rows``.

    Returns:
        float64[rows].
    """
    parts = [block.probability for block in blocks(start_row, rows, seed)]
    return np.concatenate(parts) if parts else np.empty(0)


def best_scores(start_row: int, rows: int, seed: int = 0) -> BestScores:
    """The scores of ``click_probabilities`` on the labels of the same rows.

    Args:
        start_row: As in ``make_rows``.
        rows: As in ``make_rows``.
        seed: As in ``make_rows``.
    """
    counter = BestScoresCounter()
    for block in blocks(start_row, rows, seed):
        counter.add(block)
    return counter.scores()


def write_sample(
    paths: Sequence[PathLike],
    rows: int,
    seed: int = 0,
    start_row: int = 0,
    show_progress: bool = False,
) -> BestScores:
    """Writes rows into files, round-robin if there are several; a file appears when it is whole.

    Args:
        paths: The files; row ``start_row + i`` goes to file ``i % len(paths)``.
        rows: Rows in all files together.
        seed: As in ``make_rows``.
        start_row: As in ``make_rows``.
        show_progress: Show a progress bar on a terminal.

    Returns:
        The best scores that a learner can expect on these rows; see ``best_scores``.

    Raises:
        ValueError: A number is negative or a file is named twice.
        OSError: A file cannot be written.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"a file is named twice: {' '.join(map(str, paths))}")
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    counter = BestScoresCounter()
    disable = None if show_progress else True  # None: only where a terminal shows it
    with ExitStack() as stack:
        writers = []
        for path in paths:
            file = stack.enter_context(atomic_writer(path, durable=False))
            writer = pa.csv.CSVWriter(file, SCHEMA, write_options=options)
            writers.append(stack.enter_context(writer))
        bar = stack.enter_context(
            tqdm(total=rows, unit="row", unit_scale=True, disable=disable, desc="writing")
        )
        done = 0
        for block in blocks(start_row, rows, seed):
            for place, writer in enumerate(writers):
                first = (place - done) % len(writers)
                writer.write_table(block.every(first, len(writers)).to_table())
            counter.add(block)
            done += len(block.label)
            bar.update(len(block.label))
    return counter.scores()
