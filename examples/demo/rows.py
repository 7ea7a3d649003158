"""The rows of a run: some for the dictionaries, the others for the stream."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from examples.demo.plan import DemoError, Plan
from examples.dictionaries.processing import Processed, process
from examples.sample.rows import write_sample
from src.process.files import PathLike
from src.rows.bad_rows import BadLines
from src.rows.criteo import ROW, BadRow
from src.rows.opened_file import OpenedFile, open_rows

logger = logging.getLogger("quickstart")

SAMPLE_HISTORY_ROWS = 20_000
SAMPLE_STEPS = 100
DATA_HISTORY_ROWS = 5_000


@dataclass(frozen=True)
class Stream:
    """The rows that will be streamed and the dictionaries for them.

    Attributes:
        files: One for each partition.
        rows: Rows in all of them.
        steps: Steps to train.
        made: The dictionaries.
        history: The rows that the dictionaries were made from.
    """

    files: Sequence[Path]
    rows: int
    steps: int
    made: Processed
    history: Path


def prepare(plan: Plan) -> Stream:
    """Makes the dictionaries and the files to stream.

    Raises:
        DemoError: There are too few rows for the steps, or the rows' file would be written to.
        RowFileError, DictionaryError, OSError: The rows can't be read or written.
    """
    plan.work_dir.mkdir(parents=True, exist_ok=True)
    files = [plan.work_dir / "output1.tsv", plan.work_dir / "output2.tsv"]
    history = plan.work_dir / "history.tsv"
    if plan.data is None:
        history_rows = plan.history_rows or SAMPLE_HISTORY_ROWS
        rows = plan.rows or (plan.steps or SAMPLE_STEPS) * plan.rows_per_step
        write_sample([history], history_rows, show_progress=True)
        write_sample(files, rows, start_row=history_rows, show_progress=True)
    else:
        _check_not_written(plan.data, [history, *files])
        history_rows, rows = split_rows(plan.data, plan.history_rows, plan.rows, history, files)
    steps = plan.steps or rows // plan.rows_per_step
    if rows < max(steps, 1) * plan.rows_per_step:
        raise DemoError(
            f"{rows} rows to stream are too few for {max(steps, 1)} steps of "
            f"{plan.rows_per_step} rows"
        )
    made = process(
        [history],
        plan.work_dir,
        vocab_size=plan.config.vocab_size,
        keep_most_frequent=True,
        rows=history_rows,
        show_progress=True,
    )
    logger.info("dictionaries from %d rows; %d rows to stream", made.rows, rows)
    return Stream(files, rows, steps, made, history)


def _check_not_written(data: Path, files: Iterable[Path]) -> None:
    for path in files:
        if data.exists() and path.exists() and data.samefile(path):
            raise DemoError(f"{data} is a file that this script writes: copy it elsewhere first")


def split_rows(
    data: PathLike,
    history_rows: int | None,
    limit: int | None,
    history: Path,
    files: Sequence[Path],
) -> tuple[int, int]:
    """Writes a file's first rows to one file, and the others round-robin to several.

    It reads the file once, so it may be a pipe. Bad rows are left to those who read the files,
    but for lines that are too long and a last line without its end. Each file keeps the order.

    Args:
        data: The file.
        history_rows: How many rows are the first ones; None for 5,000, or a third of the rows
            where there are fewer than 15,000.
        limit: Largest number of other rows to write, None for no limit.
        history: The file for the first rows.
        files: The files for the others.

    Returns:
        (first rows, others).

    Raises:
        RowFileError: The file can't be read, or its first line is not a row.
        OSError: A file can't be written.
    """
    with contextlib.ExitStack() as stack:
        lines = _lines(stack.enter_context(open_rows(data)))
        if history_rows is None:
            begin = list(islice(lines, 3 * DATA_HISTORY_ROWS))
            lines, history_rows = chain(begin, lines), max(1, len(begin) // 3)
        outputs = [stack.enter_context(open(path, "wb")) for path in (history, *files)]
        first = _deal(islice(lines, history_rows), outputs[:1])
        return first, _deal(islice(lines, limit), outputs[1:])


def _deal(lines: Iterable[bytes], outputs: Sequence[BinaryIO]) -> int:
    """Writes lines round-robin; returns how many."""
    number = 0
    for number, line in enumerate(lines, start=1):
        outputs[(number - 1) % len(outputs)].write(line + b"\n")
    return number


def _lines(file: OpenedFile) -> Iterator[bytes]:
    bad_lines = BadLines(file.name)
    for block in file.blocks():
        bad = [BadRow(place, ROW, reason) for place, reason in block.faults.items()]
        bad_lines.observe(block.first, len(block.lines), bad)
        yield from (line for place, line in enumerate(block.lines) if place not in block.faults)
    bad_lines.sum_up()
