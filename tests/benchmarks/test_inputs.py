"""Rows are the same on both wires, and files of them are made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.inputs import json_messages, lines, row_files
from src.rows.parsing import parse_messages
from tests.benchmarks.windows import ROWS


def test_json_messages_hold_the_same_rows(folder: Path) -> None:
    values = lines(folder, ROWS)
    ours = parse_messages(values)
    theirs = parse_messages([value for _, value in json_messages(values)], "json")
    assert not theirs.bad
    np.testing.assert_array_equal(ours.dense, theirs.dense)
    np.testing.assert_array_equal(ours.label, theirs.label)


def test_row_files_are_dealt_in_turn_and_made_once(folder: Path) -> None:
    first, second = row_files(folder, 10)
    assert first.read_bytes().splitlines() == lines(folder, 10)[::2]
    assert second.read_bytes().splitlines() == lines(folder, 10)[1::2]
    made = first.stat().st_mtime_ns
    assert row_files(folder, 10)[0].stat().st_mtime_ns == made
