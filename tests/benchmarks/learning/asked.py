"""Flags of a comparison in a folder of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.learning.__main__ import parse_args

HISTORY = 250


def asked(folder: Path, *flags: str) -> argparse.Namespace:
    return parse_args([f"--work_dir={folder / 'work'}", f"--history_rows={HISTORY}", *flags])
