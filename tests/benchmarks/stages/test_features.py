"""The documented way gives what this project gives, and the check that compares can fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.documented.features import RowFunctions
from benchmarks.inputs import lines
from benchmarks.stages import features as stage_features
from src.dictionaries.dictionaries import Dictionaries
from tests.benchmarks.windows import ROWS


def test_both_ways_make_the_same_features(folder: Path, dictionaries: Dictionaries) -> None:
    stage_features.check_equal(lines(folder, ROWS), dictionaries)


def test_features_that_differ_are_noticed(
    folder: Path, dictionaries: Dictionaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RowFunctions, "label", lambda self, value: np.array([7]))
    with pytest.raises(AssertionError):
        stage_features.check_equal(lines(folder, ROWS), dictionaries)
