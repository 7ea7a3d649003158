"""Rows and dictionaries for all stages, made by the project's own scripts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.settings import VOCAB_SIZE
from examples.dictionaries.processing import process
from examples.sample.rows import write_sample
from src.dictionaries.dictionaries import (
    MAP_DICT_NAME,
    MAX_DICT_NAME,
    MIN_DICT_NAME,
    Dictionaries,
    load_dictionaries,
)
from src.rows.json_wire import json_message

HISTORY_ROWS = 20_000
PARTITIONS = 2


@dataclass(frozen=True)
class DictionaryFiles:
    """The files of the three dictionaries."""

    max_dict: Path
    min_dict: Path
    map_dict: Path

    def load(self) -> Dictionaries:
        """The dictionaries, checked."""
        return load_dictionaries(self.max_dict, self.min_dict, self.map_dict)

    def flags(self) -> list[str]:
        """The consumer's flags for these files."""
        names = ("max_dict", "min_dict", "map_dict")
        return [f"--{name}={getattr(self, name)}" for name in names]


def dictionary_files(folder: Path) -> DictionaryFiles:
    """Dictionaries of rows that no stage streams, as in production."""
    files = DictionaryFiles(folder / MAX_DICT_NAME, folder / MIN_DICT_NAME, folder / MAP_DICT_NAME)
    if not all(path.exists() for path in (files.max_dict, files.min_dict, files.map_dict)):
        folder.mkdir(parents=True, exist_ok=True)
        history = folder / "history.tsv"
        write_sample([history], HISTORY_ROWS)
        process([history], folder, vocab_size=VOCAB_SIZE, keep_most_frequent=True)
    return files


def row_files(folder: Path, rows: int, parts: int = PARTITIONS) -> list[Path]:
    """Files that hold this number of sample rows together, distributed round-robin."""
    paths = [folder / f"rows_{rows}_{number + 1}_of_{parts}.tsv" for number in range(parts)]
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        write_sample(paths, rows, start_row=HISTORY_ROWS)
    return paths


def lines(folder: Path, rows: int) -> list[bytes]:
    """This number of sample rows as message values."""
    (path,) = row_files(folder, rows, parts=1)
    with open(path, "rb") as file:
        return [line.rstrip(b"\n") for line in islice(file, rows)]


def json_messages(values: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The same rows on the documented wire: (key, value) each."""
    return [json_message(value) for value in values]
