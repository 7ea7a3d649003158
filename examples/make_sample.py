"""Makes Criteo-like rows: as many as you like, the same every time, with clicks to learn from.

    python examples/make_sample.py --rows 20000 --output output1.tsv output2.tsv

Several files take the rows in round-robin order, so that each file is in order of time. A row
depends on its number and the seed alone: ``--start_row 1000000`` continues a run of a million
rows. Another seed makes other rows with the same values and the same hidden weights. So a model
can be trained on one seed and tested on another.

How the rows are distributed:

* Categorical columns have the sizes of the public data set (3 to 200,000 values), and about its
  shares of missing values. Values are Zipf-distributed, and written as 8 hexadecimal digits.
* Dense columns are log-normal counts; I2 goes down to -3.
* A logistic model decides which rows are clicked. It has a hidden weight for each value, and
  curves of some dense columns. A linear model can learn these.
* The model also has effects of pairs of columns. For some pairs they are products of hidden factors
  of the two values. Other pairs have a hidden weight for each pair of values, and neither column
  has this effect alone. For dense columns these values are octaves: 0, 1-2, 3-6, 7-14 and so on.
* About a quarter of the rows are clicked.
* The distribution drifts. In the larger columns a new value takes each place on the popularity
  list every 32,768 to 524,288 rows. The weights of some columns change into new ones over 65,536
  rows. The click rate swings slowly.

The last line has the AUC and the log loss of the true probabilities on these rows. No learner can
expect better scores.
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
from src.process.flags import FlagParser, path_text_flag

logger = logging.getLogger("make_sample")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--rows", type=int, default=20_000, help="rows in all files together (%(default)s)")
    flag(
        "--output",
        type=path_text_flag,
        nargs="+",
        default=["output1.tsv", "output2.tsv"],
        metavar="FILE",
        help="files to write, in round-robin order of rows (output1.tsv output2.tsv)",
    )
    flag(
        "--seed",
        type=int,
        default=0,
        help="seed of the rows; values and weights stay the same (%(default)s)",
    )
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
        best = write_sample(
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
        "%d rows in %.1f s (%.0f rows/s) in %s",
        arguments.rows,
        seconds,
        arguments.rows / seconds,
        " ".join(arguments.output),
    )
    logger.info("best possible scores of these rows: %s", best)
    return 0


if __name__ == "__main__":
    sys.exit(main())
