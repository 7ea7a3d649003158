"""Makes the three dictionaries of the consumer from Criteo files, and a profile of their rows.

    python examples/process_data.py --data day_0.tsv day_1.tsv --output_dir .

It reads each file once, block by block, so that a file may be larger than memory. Counts of values
that are too many for memory go to a nameless temporary file in the output folder, which may take
up to three times the room of the files. Ids go to the 13 dense columns, to "any other value" of the
26 categorical ones, and then to the values seen more than --min_count times: by column, the most
frequent first. The order of the rows plays no part.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from tqdm import tqdm

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.dictionaries.dictionaries import (
    DEFAULT_MIN_COUNT,
    DEFAULT_VOCAB_SIZE,
    MAP_DICT_NAME,
    MAX_DICT_NAME,
    MIN_DICT_NAME,
    Dictionaries,
    DictionaryBuilder,
    DictionaryError,
    save_dictionaries,
)
from src.features.drift import PROFILE_NAME, profile_of
from src.process.files import PathLike
from src.rows.criteo import (
    FIELD_SIZE,
    LABEL,
    convert_options,
    is_header,
    parse_messages,
    parse_options,
    read_options,
)

logger = logging.getLogger("process_data")

BLOCK_BYTES = 16 << 20
_LINE_FEED = ord("\n")


class DataError(ValueError):
    """A file that is not a Criteo file; the message names file, line, column and value."""


@dataclass(frozen=True)
class Processed:
    """What ``process`` made.

    Attributes:
        rows: Rows read.
        dictionaries: The dictionaries, as the consumer will load them.
        max_dict: File of the largest value of each dense column.
        min_dict: File of the smallest value of each dense column.
        map_dict: File of the ids.
        profile: File of what the rows look like, see ``drift.Profile``.
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
        min_count: A value needs to be seen more often than this to get an id.
        vocab_size: The most ids there may be.
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


def read_blocks(
    path: PathLike, rows: int | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[pa.Table, int]]:
    """Reads a Criteo file block by block.

    Args:
        path: The file: 40 tab-separated fields a line, no header; lines may end in CR LF.
        rows: Stop after this many rows.
        block_bytes: Least size of a block, the last one aside.

    Yields:
        (a table of the 40 columns, bytes read for it); the label and the dense columns are int64,
        the categorical columns strings, and null is missing.

    Raises:
        DataError: A line is no row; file, line, column and value are named.
        OSError: The file cannot be read.
    """
    line_number = 1
    with open(path, "rb") as file:
        while rows is None or rows > 0:
            data = file.read(block_bytes)
            data += file.readline()
            if rows is not None:
                data = _first_lines(data, rows)
            if not data:
                return
            if line_number == 1 and is_header(data.split(b"\n", 1)[0]):
                raise DataError(
                    f'{path}: line 1 is a header (its first field is "{LABEL}"), and a Criteo '
                    "file has none: remove it"
                )
            table = _read_block(data, path, line_number)
            yield table, len(data)
            line_number += table.num_rows
            rows = None if rows is None else rows - table.num_rows


def _first_lines(data: bytes, lines: int) -> bytes:
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _LINE_FEED)
    return data if len(ends) <= lines else data[: ends[lines - 1] + 1]


def _read_block(data: bytes, path: PathLike, first_line: int) -> pa.Table:
    """Parses whole lines; if any is no row, looks for it line by line."""
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    options = convert_options(pa.string())
    options.column_types = {**options.column_types, LABEL: pa.string()}  # 00 is no label
    fault = None
    try:
        table = pa.csv.read_csv(pa.py_buffer(data), read_options(), parse_options(), options)
        if table.num_rows == lines and _holds_labels(table[LABEL]):
            fault = _first_fault(data, path, first_line) if _may_be_misread(data) else None
            if fault is None:
                return table.set_column(0, LABEL, table[LABEL].cast(pa.int64()))
    except pa.ArrowInvalid:
        pass  # the message knows neither the file's line nor the column's name
    last_line = first_line + lines - 1
    raise DataError(
        fault
        or _first_fault(data, path, first_line)
        or f"{path}: lines {first_line} to {last_line} cannot be read"
    )


def _holds_labels(label: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.is_in(label, pa.array(["0", "1"]))).as_py())


def _may_be_misread(data: bytes) -> bool:
    """Whether the CSV reader may have been kinder than the format.

    It trims blanks around a number, reads 0x10 and swallows a byte order mark.
    """
    return any(mark in data for mark in (b" ", b"x", b"X")) or data.startswith(codecs.BOM_UTF8)


def _first_fault(data: bytes, path: PathLike, first_line: int) -> str | None:
    """File, line, column and reason of the first line that is no row, or None if all are."""
    lines = data.removesuffix(b"\n").split(b"\n")
    for start in range(0, len(lines), 1000):
        some = [line.removesuffix(b"\r") for line in lines[start : start + 1000]]
        bad = parse_messages(some).bad
        if bad:
            line_number = first_line + start + bad[0].index
            return f"{path}: line {line_number}: {bad[0].column}: {bad[0].reason}"
    return None


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--data", nargs="+", required=True, metavar="FILE", help="Criteo files without a header")
    flag(
        "--output_dir",
        default=".",
        help=f"folder of {MAX_DICT_NAME}, {MIN_DICT_NAME}, {MAP_DICT_NAME} and {PROFILE_NAME} "
        "(default: here)",
    )
    flag(
        "--min_count",
        type=int,
        default=DEFAULT_MIN_COUNT,
        help="a value gets an id if it is seen more often than this (default: %(default)s)",
    )
    flag(
        "--vocab_size",
        type=int,
        default=DEFAULT_VOCAB_SIZE,
        help="the most ids there may be: the model's vocab_size (default: %(default)s)",
    )
    flag(
        "--keep_most_frequent",
        action="store_true",
        help="if there are more, keep only the most frequent values instead of stopping",
    )
    flag("--rows", type=int, metavar="N", help="read only the first N rows of all files together")
    arguments = parser.parse_args(argv)
    if arguments.min_count < 0:
        parser.error(f"--min_count must not be negative, not {arguments.min_count}")
    if arguments.vocab_size < FIELD_SIZE:
        parser.error(f"--vocab_size must be at least {FIELD_SIZE}, not {arguments.vocab_size}")
    if arguments.rows is not None and arguments.rows <= 0:
        parser.error(f"--rows must be positive, not {arguments.rows}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the dictionaries; returns the exit code."""
    arguments = parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    started = time.monotonic()
    try:
        made = process(
            arguments.data,
            arguments.output_dir,
            min_count=arguments.min_count,
            vocab_size=arguments.vocab_size,
            keep_most_frequent=arguments.keep_most_frequent,
            rows=arguments.rows,
            show_progress=True,
        )
    except (DataError, DictionaryError, OSError) as error:
        logger.error("%s", error)
        return 1
    seconds = time.monotonic() - started
    logger.info(
        "%d rows in %.1f s (%.0f rows/s): %d ids of at most %d, of which %d are values; "
        "fingerprint %016x; written to %s",
        *(made.rows, seconds, made.rows / seconds),
        *(made.dictionaries.vocab_size_needed, arguments.vocab_size),
        *(made.dictionaries.vocab_size_needed - FIELD_SIZE, made.dictionaries.fingerprint),
        made.map_dict.parent,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
