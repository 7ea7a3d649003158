"""The rows that all ways learn from, and their dictionaries."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from examples.dictionaries.processing import Processed, process
from examples.sample.rows import write_sample
from src.config import load_config

SAMPLE_HISTORY_ROWS = 15_000


class LearningError(RuntimeError):
    """A way could not be measured; the message is one line."""


@dataclass(frozen=True)
class Rows:
    """The rows that all ways learn from.

    Attributes:
        path: The file.
        history: Its first rows, from which the dictionaries are made.
        stream: Number of rows after them, a multiple of the batch size.
        made: The dictionaries.
    """

    path: Path
    history: int
    stream: int
    made: Processed


def prepare(arguments: argparse.Namespace) -> Rows:
    """Makes or counts the rows, and makes the dictionaries.

    Raises:
        LearningError: There are too few rows.
        RowFileError, DictionaryError, OSError: The file can't be used.
    """
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    path, history = arguments.data, arguments.history_rows
    if path is None:
        stream = arguments.rows or 1_000_000
        path = arguments.work_dir / f"sample_{history + stream}.tsv"
        if not path.exists():
            write_sample([path], history + stream, show_progress=True)
    else:
        with open(path, "rb") as lines:
            stream = sum(1 for _ in lines) - history
        stream = min(stream, arguments.rows or stream)
    batch_size = load_config([]).batch_size
    stream -= stream % batch_size
    if stream <= 0:
        raise LearningError(f"{path} has no {batch_size} rows after the {history} of the history")
    made = process([path], arguments.work_dir, rows=history, keep_most_frequent=True)
    return Rows(path, history, stream, made)
