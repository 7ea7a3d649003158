"""When the stream counts as another one than the dictionaries were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from src.features.drift import Deviation, DriftGuard, Profile, ProfileError, profile_of
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_SIZE
from tests.features.made import make_dictionaries

ROWS = 1000
PROFILE = Profile(50_000, 0.25, (0.2,) * CATEGORICAL_SIZE)


def guard() -> DriftGuard:
    return DriftGuard(PROFILE, make_dictionaries(), rows_to_judge=ROWS)


def observe(
    watched: DriftGuard, clicks: float = 0.25, oov: float = 0.2, outside: float = 0.0
) -> list[Deviation]:
    """Rows of which C3 and I2 alone deviate; I2 runs from -2 to 18 in the dictionaries."""
    labels = (np.arange(ROWS) < clicks * ROWS).astype(np.float32)
    dense: Array = np.full((ROWS, DENSE_SIZE), np.nan)
    dense[: int(outside * ROWS), 1] = 18.5
    counts = np.full(CATEGORICAL_SIZE, int(0.2 * ROWS))
    counts[2] = int(oov * ROWS)
    return watched.observe(labels, dense, counts)


def test_rows_like_those_of_the_profile_are_not_reported() -> None:
    assert observe(guard()) == []


@pytest.mark.parametrize(
    ("deviating", "text"),
    [
        ({"clicks": 0.5}, "label clicks 50.0% (expected 25.0%)"),
        ({"clicks": 0.02}, "label clicks 2.0% (expected 25.0%)"),
        ({"oov": 0.6}, "C3 out of vocabulary 60.0% (expected 20.0%)"),
        ({"outside": 0.05}, "I2 out of range 5.0% (expected 0.0%)"),
    ],
)
def test_a_column_that_leaves_its_band_is_named_with_both_shares(
    deviating: dict[str, float], text: str
) -> None:
    assert list(map(str, observe(guard(), **deviating))) == [text]


@pytest.mark.parametrize("within", [{"clicks": 0.34}, {"oov": 0.39}, {"outside": 0.009}])
def test_within_the_band_and_four_standard_errors_nothing_is_reported(
    within: dict[str, float],
) -> None:
    assert observe(guard(), **within) == []


def test_a_deviation_is_reported_once_and_its_end_too() -> None:
    watched = guard()
    assert [deviation.within for deviation in observe(watched, oov=0.6)] == [False]
    assert observe(watched, oov=0.6) == []
    (back,) = observe(watched)
    assert str(back) == "C3 out of vocabulary back to 20.0% (expected 20.0%)"


def test_rows_are_judged_together_once_there_are_enough() -> None:
    watched = DriftGuard(PROFILE, make_dictionaries(), rows_to_judge=2 * ROWS)
    assert observe(watched, oov=1.0) == []
    assert [deviation.share for deviation in observe(watched, oov=0.2)] == [0.6]


def test_values_at_the_bounds_and_missing_ones_are_in_range() -> None:
    dense = np.full((ROWS, DENSE_SIZE), np.nan)
    dense[:, 1] = np.where(np.arange(ROWS) % 2, -2.0, 18.0)
    labels = (np.arange(ROWS) < 0.25 * ROWS).astype(np.float32)
    assert guard().observe(labels, dense, np.full(CATEGORICAL_SIZE, 200)) == []


def test_a_profile_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made = profile_of(8, 2, [8, 6, *[0] * 24])
    assert made == Profile(8, 0.25, (0.0, 0.25, *[1.0] * 24))
    made.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == made


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"rows": 1, "label_rate": 0.5}', '{"rows": 1, "label_rate": 2, "oov_rates": []}'],
)
def test_a_file_that_is_no_profile_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(ProfileError, match="profile.json"):
        Profile.load(path)
