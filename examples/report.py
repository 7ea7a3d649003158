"""Draws the metrics files of trainers: one page, with its pictures beside it.

    python examples/report.py metrics.jsonl
    python examples/report.py before/metrics.jsonl after/metrics.jsonl --output report.html

Each file is one run. Several runs share each picture, and one more shows each run's difference from
the first. Rotated files (metrics.jsonl.1 and so on) belong to their run. Where a trainer returned
to a checkpoint, its reports after that checkpoint are left out, as those steps were trained again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.report_page.page import write_report
from examples.report_page.runs import ReportError, read_run
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.process.output import OutputError, say

logger = logging.getLogger("report")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", type=path_flag, nargs="+", metavar="metrics.jsonl", help="one file per run"
    )
    parser.add_argument(
        "--output",
        type=path_flag,
        default=Path("report.html"),
        help="the page to write (%(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report; returns 0, or 1 after an error, which is logged."""
    arguments = parse_args(argv)
    configure_logging()
    try:
        written = write_report([read_run(path) for path in arguments.files], arguments.output)
        say(*map(str, written))
    except (OutputError, ReportError, OSError) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
