"""Counts the values of Criteo files and writes the dictionaries."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from examples.dictionaries.criteo_file import DataError, read_blocks
from src.dictionaries.builder import DEFAULT_MIN_COUNT, DEFAULT_VOCAB_SIZE, DictionaryBuilder
from src.dictionaries.dictionaries import (
    MAP_DICT_NAME,
    MAX_DICT_NAME,
    MIN_DICT_NAME,
    Dictionaries,
    save_dictionaries,
)
from src.features.drift import PROFILE_NAME, profile_of
from src.process.files import PathLike


@dataclass(frozen=True)
class Processed:
    """What ``process`` made.

    Attributes:
        rows: Rows read.
        dictionaries: The dictionaries, as the consumer will load them.
        max_dict: File of the largest value of each dense column.
        min_dict: File of the smallest value of each dense column.
        map_dict: File of the ids.
        profile: File of the rows' distribution, see ``drift.Profile``.
    """

    rows: int
    dictionaries: Dictionaries
    max_dict: Path
    min_dict: Path
    map_dict: Path
    profile: Path


def process(
    paths: Sequence[PathLike],
    output_dir: PathLike,
    min_count: int = DEFAULT_MIN_COUNT,
    vocab_size: int = DEFAULT_VOCAB_SIZE,
    keep_most_frequent: bool = False,
    rows: int | None = None,
    show_progress: bool = False,
) -> Processed:
    """Makes the three dictionaries from Criteo files and writes them and a profile into a folder.

    Args:
        paths: Criteo files without a header, read in this order.
        output_dir: Folder of the files; made if it is not there.
        min_count: A value that occurs more often than this gets an id.
        vocab_size: Largest number of ids.
        keep_most_frequent: Drop the least frequent values if there are too many.
        rows: Read only the first rows of all files together.
        show_progress: Show a progress bar on a terminal.

    Raises:
        DataError: A line is no row, or there is no row at all.
        DictionaryError: The ids do not fit into ``vocab_size``.
        OSError: A file cannot be read or written.
    """
    folder = Path(output_dir)
    with contextlib.closing(DictionaryBuilder(folder)) as builder:
        _count(builder, paths, rows, show_progress)
        dictionaries = builder.finish(min_count, vocab_size, keep_most_frequent)
    folder.mkdir(parents=True, exist_ok=True)
    names = (MAX_DICT_NAME, MIN_DICT_NAME, MAP_DICT_NAME, PROFILE_NAME)
    *files, profile = (folder / name for name in names)
    save_dictionaries(dictionaries, *files)
    profile_of(builder.rows, builder.clicks, builder.known_cells).save(profile)
    return Processed(builder.rows, dictionaries, files[0], files[1], files[2], profile)


def _count(
    builder: DictionaryBuilder, paths: Sequence[PathLike], rows: int | None, show_progress: bool
) -> None:
    total = sum(os.path.getsize(path) for path in paths) if rows is None else rows
    unit = "B" if rows is None else "row"
    disable = None if show_progress else True  # None: only where a terminal shows it
    with tqdm(total=total, unit=unit, unit_scale=True, disable=disable, desc="reading") as bar:
        for path in paths:
            left = None if rows is None else rows - builder.rows
            for block, size in read_blocks(path, left):
                builder.add(block)
                bar.update(size if rows is None else block.num_rows)
    if builder.rows == 0:
        raise DataError(f"no rows in {', '.join(map(str, paths))}")
