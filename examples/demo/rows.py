"""The rows of a run: some for the dictionaries, the others for the stream."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from examples.demo.plan import DemoError, Plan
from examples.dictionaries.processing import Processed, process
from examples.sample.rows import write_sample

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
        history: Its first rows are those that the dictionaries were made from.
    """

    files: Sequence[Path]
    rows: int
    steps: int
    made: Processed
    history: Path


def prepare(plan: Plan) -> Stream:
    """Makes the dictionaries and the files to stream.

    Raises:
        DemoError: There are too few rows for the steps.
        DataError, DictionaryError, OSError: The rows can't be read or written.
    """
    plan.work_dir.mkdir(parents=True, exist_ok=True)
    files = [plan.work_dir / "output1.tsv", plan.work_dir / "output2.tsv"]
    if plan.data is None:
        history_rows = plan.history_rows or SAMPLE_HISTORY_ROWS
        rows = plan.rows or (plan.steps or SAMPLE_STEPS) * plan.rows_per_step
        history = plan.work_dir / "history.tsv"
        write_sample([history], history_rows, show_progress=True)
        write_sample(files, rows, start_row=history_rows, show_progress=True)
    else:
        history = plan.data
        history_rows = plan.history_rows or _default_history_rows(plan.data)
        rows = split_rows(plan.data, history_rows, plan.rows, files)
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


def split_rows(data: Path, skip: int, limit: int | None, files: Sequence[Path]) -> int:
    """Distributes a file's rows round-robin over several files; each keeps the order.

    Args:
        data: The file.
        skip: Rows to skip at the beginning.
        limit: Largest number of rows to distribute, None for no limit.
        files: The files to write.

    Returns:
        How many rows were distributed.
    """
    rows = 0
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(open(path, "wb")) for path in files]
        lines = stack.enter_context(open(data, "rb"))
        for line in islice(lines, skip, None if limit is None else skip + limit):
            outputs[rows % len(outputs)].write(line if line.endswith(b"\n") else line + b"\n")
            rows += 1
    return rows


def _default_history_rows(data: Path) -> int:
    with open(data, "rb") as lines:
        counted = sum(1 for _ in islice(lines, 3 * DATA_HISTORY_ROWS))
    return max(1, counted // 3)
