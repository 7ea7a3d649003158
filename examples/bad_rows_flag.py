"""The flag that says how many bad rows a script bears."""

from __future__ import annotations

import argparse

from src.rows.bad_rows import DEFAULT_MAX_BAD_FRACTION


def add_bad_rows_flag(parser: argparse.ArgumentParser) -> None:
    """Adds ``--max_bad_fraction``, with the consumer's meaning and default."""
    parser.add_argument(
        "--max_bad_fraction",
        type=_share,
        default=DEFAULT_MAX_BAD_FRACTION,
        metavar="SHARE",
        help="largest share of bad rows in the last 10,000; above it the script stops "
        "(default: %(default)s)",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return share
