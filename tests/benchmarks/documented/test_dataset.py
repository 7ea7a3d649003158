from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.documented.dataset import RowDataset
from benchmarks.inputs import lines
from benchmarks.stages.feed import documented_windows
from src.dictionaries.dictionaries import Dictionaries
from tests.benchmarks.windows import ROWS, window_of


def test_a_row_dataset_hands_out_rows_in_order(folder: Path, dictionaries: Dictionaries) -> None:
    window = window_of(lines(folder, ROWS), dictionaries)
    waiting = documented_windows([window[:10], window[10:]])
    source = RowDataset(lambda: waiting.pop(0))
    for number in range(ROWS):
        ids, weights, label = source[number]
        np.testing.assert_array_equal(ids, window["id"][number])
        np.testing.assert_array_equal(weights, window["weight"][number])
        assert label.tolist() == [window["label"][number]]
