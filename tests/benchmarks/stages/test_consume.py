from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.inputs import lines
from benchmarks.stages.consume import check_equal
from benchmarks.stages.feed import documented_windows
from src.dictionaries.dictionaries import Dictionaries
from tests.benchmarks.windows import ROWS, window_of


def test_a_documented_row_that_is_not_among_ours_is_noticed(
    folder: Path, dictionaries: Dictionaries
) -> None:
    window = window_of(lines(folder, ROWS), dictionaries)
    theirs = documented_windows([window[::-1]])
    check_equal([window], theirs)
    theirs[0][3, 0][5] += 1
    with pytest.raises(AssertionError, match=f"1 of {ROWS}"):
        check_equal([window], theirs)
