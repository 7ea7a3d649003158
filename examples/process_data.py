"""Makes the three dictionaries of the consumer from Criteo files, and a profile of their rows.

    python examples/process_data.py --data day_0.tsv day_1.tsv --output_dir .

It reads each file once, block by block, so a file may be larger than memory, or a pipe (- is
standard input). A file may be compressed with gzip or zstd. Counts that do not
fit memory go to an unnamed temporary file in the output folder. That file may become up to three
times as large as the input files.

The first ids are those of the 13 dense columns. Then comes one id for "any other value" of each of
the 26 categorical columns. Then come the values seen more than --min_count times: column by column,
the most frequent first. The order of the rows does not matter.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.dictionaries.processing import process
from src.dictionaries.builder import DEFAULT_MIN_COUNT, DEFAULT_VOCAB_SIZE
from src.dictionaries.dictionaries import MAP_DICT_NAME, MAX_DICT_NAME, MIN_DICT_NAME
from src.dictionaries.errors import DictionaryError
from src.features.drift import PROFILE_NAME
from src.process.flags import FlagParser, path_text_flag
from src.rows.bad_rows import add_bad_rows_flag
from src.rows.criteo import FIELD_SIZE
from src.rows.opened_file import RowFileError

logger = logging.getLogger("process_data")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag(
        "--data",
        type=path_text_flag,
        nargs="+",
        required=True,
        metavar="FILE",
        help="Criteo files without a header, plain, gzip or zstd; - is standard input",
    )
    flag(
        "--output_dir",
        type=path_text_flag,
        default=".",
        help=f"folder of {MAX_DICT_NAME}, {MIN_DICT_NAME}, {MAP_DICT_NAME} and {PROFILE_NAME} "
        "(default: here)",
    )
    flag(
        "--min_count",
        type=int,
        default=DEFAULT_MIN_COUNT,
        help="a value gets an id if it occurs more often than this (default: %(default)s)",
    )
    flag(
        "--vocab_size",
        type=int,
        default=DEFAULT_VOCAB_SIZE,
        help="largest number of ids: the model's vocab_size (default: %(default)s)",
    )
    flag(
        "--keep_most_frequent",
        action="store_true",
        help="drop the least frequent values where there are too many, instead of failing",
    )
    flag("--rows", type=int, metavar="N", help="read only the first N lines of all files together")
    add_bad_rows_flag(parser)
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
            max_bad_fraction=arguments.max_bad_fraction,
        )
    except (RowFileError, DictionaryError, OSError) as error:
        logger.error("%s", error)
        return 1
    seconds = time.monotonic() - started
    ids = made.dictionaries.vocab_size_needed
    logger.info(
        "%d rows%s in %.1f s (%.0f rows/s): %d ids of at most %d, of which %d are values; "
        "fingerprint %016x; written to %s",
        made.rows,
        f" and {made.bad_rows} bad rows" if made.bad_rows else "",
        seconds,
        made.rows / seconds,
        ids,
        arguments.vocab_size,
        ids - FIELD_SIZE,
        made.dictionaries.fingerprint,
        made.map_dict.parent,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
