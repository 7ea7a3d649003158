"""Compares how well and how fast each way learns, on the same rows in the same order.

    python -m benchmarks.learning
    python -m benchmarks.learning --data FILE --history_rows 5000

Every way makes one pass over the stream and scores each row before it learns from it. The rows
before the stream are the history: the dictionaries are made from them, and `adaptive` and Vowpal
Wabbit learn from them first. Vowpal Wabbit runs twice. As `vowpal_wabbit` it is linear in the
fields; as `vowpal_wabbit_pairs` it has all pairs of fields too. No broker and no engine take part,
so rows/s count features and training alone.

The exit code is 0 when `adaptive` has a higher AUC and a lower log loss than both of them, and at
least 60 % of the rows/s of `sparse`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from benchmarks.learning.linear_learner import learn_with_vowpal_wabbit
from benchmarks.learning.rows import SAMPLE_HISTORY_ROWS, LearningError, prepare
from benchmarks.learning.scores import HEADER, PEERS, shortcomings
from benchmarks.learning.ways import WAYS, learn
from benchmarks.processes.child import run_in_child
from examples.sample.rows import best_scores
from examples.services.common import ROOT
from src.dictionaries.errors import DictionaryError
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.rows.opened_file import RowFileError

logger = logging.getLogger("learning")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        prog="python -m benchmarks.learning",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--data", type=path_flag, metavar="FILE", help="a Criteo file instead of made rows")
    flag("--rows", type=int, help="rows to stream (a million; with --data all other rows)")
    flag(
        "--history_rows",
        type=int,
        default=SAMPLE_HISTORY_ROWS,
        help="rows of the history (%(default)s)",
    )
    flag("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="ways to compare (all)")
    flag(
        "--work_dir",
        type=path_flag,
        default=ROOT / "build" / "learning",
        help="folder of rows and dictionaries (build/learning)",
    )
    arguments = parser.parse_args(argv)
    for name in ("rows", "history_rows"):
        if getattr(arguments, name) is not None and getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be positive")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the ways; returns the exit code."""
    arguments = parse_args(argv)
    configure_logging()
    results = []
    try:
        rows = prepare(arguments)
        for way in arguments.ways:
            logger.info("%s: %d rows", way, rows.stream)
            if way in PEERS:
                results.append(learn_with_vowpal_wabbit(way, rows, arguments.work_dir))
                continue
            result = run_in_child(learn, way, rows)
            if result is None:
                raise LearningError(f"{way} failed")
            results.append(result)
    except (LearningError, DictionaryError, RowFileError, OSError) as error:
        logger.error("%s", error)
        return 1
    print(HEADER, *results, sep="\n")
    if arguments.data is None:
        print(f"best possible on these rows: {best_scores(rows.history, rows.stream)}")
    phrases = shortcomings(results)
    for phrase in phrases:
        print(f"missed: {phrase}")
    return 1 if phrases else 0


if __name__ == "__main__":
    sys.exit(main())
