"""Makes Criteo-like rows: as many as you like, the same ones every time, with clicks to learn.

    python examples/make_sample.py --rows 20000 --output output1.tsv output2.tsv

With several files the rows are dealt to them in turn, so that each file is in the order of time.
A row depends on its number and the seed alone: ``--start_row 1000000`` goes on where a run of a
million rows ended. Another seed gives other rows of the same world: the same values with the
same hidden weights, so that one seed can be learned from and another be tested on.

What the world is like:

* Categorical columns have the public data set's sizes (3 to 200,000 values), Zipf-distributed,
  and about its shares of missing values. Values are 8 hexadecimal digits.
* Dense columns are log-normal counts; I2 goes down to -3.
* Whether a row is clicked is drawn from a logistic model: a hidden weight for each value, a
  product of hidden factors for some pairs of columns (which a linear model cannot learn), and
  curves of some dense columns. About a quarter of the rows are clicked.
* The world drifts. In the larger columns each place on the popularity list is taken over by a
  new value every 32,768 to 524,288 rows; some columns' weights are blended into new ones over
  65,536 rows; and the click rate swings slowly.
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

from examples.sample.rows import write_sample

logger = logging.getLogger("make_sample")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--rows", type=int, default=20_000, help="rows in all files together (%(default)s)")
    flag(
        "--output",
        nargs="+",
        default=["output1.tsv", "output2.tsv"],
        metavar="FILE",
        help="files to write (output1.tsv output2.tsv); they take the rows in turn",
    )
    flag("--seed", type=int, default=0, help="which rows of the same world (%(default)s)")
    flag("--start_row", type=int, default=0, help="number of the first row (%(default)s)")
    arguments = parser.parse_args(argv)
    for name in ("rows", "seed", "start_row"):
        if getattr(arguments, name) < 0:
            parser.error(f"--{name} must not be negative, not {getattr(arguments, name)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the files; returns the exit code."""
    arguments = parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    started = time.monotonic()
    try:
        write_sample(
            arguments.output,
            arguments.rows,
            seed=arguments.seed,
            start_row=arguments.start_row,
            show_progress=True,
        )
    except (ValueError, OSError) as error:
        logger.error("%s", error)
        return 1
    seconds = time.monotonic() - started
    logger.info(
        *("%d rows in %.1f s (%.0f rows/s) in %s", arguments.rows, seconds),
        *(arguments.rows / seconds, " ".join(arguments.output)),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
