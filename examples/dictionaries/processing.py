"""Counts the values of Criteo files and writes the dictionaries."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from examples.dictionaries.criteo_file import read_blocks
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
from src.rows.bad_rows import DEFAULT_MAX_BAD_FRACTION, BadRowGuard
from src.rows.opened_file import OpenedFile, RowFileError, open_rows, refuse_one_pipe_twice

logger = logging.getLogger("process_data")

ABSURD_BOUND = 2.0**53
"""From here on a float64 does not hold every integer; no count comes near it."""


@dataclass(frozen=True)
class Processed:
    """What ``process`` made.

    Attributes:
        rows: Rows counted.
        bad_rows: Lines that are no rows.
        dictionaries: The dictionaries, as the consumer will load them.
        max_dict: File of the largest value of each dense column.
        min_dict: File of the smallest value of each dense column.
        map_dict: File of the ids.
        profile: File of the rows' distribution, see ``drift.Profile``.
    """

    rows: int
    bad_rows: int
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
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
) -> Processed:
    """Makes the three dictionaries from Criteo files and writes them and a profile into a folder.

    Args:
        paths: Criteo files without a header, read in this order; see ``OpenedFile``.
        output_dir: Folder of the files; made if it is not there.
        min_count: A value that occurs more often than this gets an id.
        vocab_size: Largest number of ids.
        keep_most_frequent: Drop the least frequent values if there are too many.
        rows: Read only the first lines of all files together.
        show_progress: Show a progress bar on a terminal.
        max_bad_fraction: See ``BadRowGuard``.

    Raises:
        RowFileError: A file can't be read, too many lines are no rows, or there is no row at all.
        DictionaryError: The ids do not fit into ``vocab_size``.
        OSError: A file cannot be written.
    """
    folder = Path(output_dir)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_rows(path)) for path in paths]
        refuse_one_pipe_twice(files)
        builder = stack.enter_context(contextlib.closing(DictionaryBuilder(folder)))
        lines = _count(builder, files, BadRowGuard(max_bad_fraction), rows, show_progress)
        dictionaries = builder.finish(min_count, vocab_size, keep_most_frequent)
    _warn_of_absurd_bounds(dictionaries)
    folder.mkdir(parents=True, exist_ok=True)
    names = (MAX_DICT_NAME, MIN_DICT_NAME, MAP_DICT_NAME, PROFILE_NAME)
    *made, profile = (folder / name for name in names)
    save_dictionaries(dictionaries, *made)
    profile_of(builder.rows, builder.clicks, builder.known_cells).save(profile)
    bad_rows = lines - builder.rows
    return Processed(builder.rows, bad_rows, dictionaries, made[0], made[1], made[2], profile)


def _warn_of_absurd_bounds(dictionaries: Dictionaries) -> None:
    for name, bounds in (
        ("smallest", dictionaries.min_by_column),
        ("largest", dictionaries.max_by_column),
    ):
        for column, bound in bounds.items():
            if abs(bound) >= ABSURD_BOUND:
                logger.warning(
                    "%s: its %s value is %.0f, so the weights of all other values are almost "
                    "equal; correct that row or remove it",
                    column,
                    name,
                    bound,
                )


def _count(
    builder: DictionaryBuilder,
    files: Sequence[OpenedFile],
    guard: BadRowGuard,
    limit: int | None,
    show_progress: bool,
) -> int:
    """Counts the rows; returns how many lines were read."""
    lines = 0
    total = limit if limit is not None else _total_size(files)
    unit = "B" if limit is None else "row"
    disable = None if show_progress else True  # None: only where a terminal shows it
    with tqdm(total=total, unit=unit, unit_scale=True, disable=disable, desc="reading") as bar:
        for file in files:
            left = None if limit is None else limit - lines
            before = 0
            for block, read in read_blocks(file, guard, left):
                builder.add(block)
                lines += read
                bar.update(read if limit is not None else file.bytes_read - before)
                before = file.bytes_read
    if builder.rows == 0:
        raise RowFileError(f"no rows in {', '.join(file.name for file in files)}")
    return lines


def _total_size(files: Sequence[OpenedFile]) -> int | None:
    """Bytes of all files; None if one is a pipe."""
    total = 0
    for file in files:
        if file.size is None:
            return None
        total += file.size
    return total
