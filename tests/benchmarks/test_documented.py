"""The documented way gives what this project gives, and checks that compare them can fail."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import documented, stage_features
from benchmarks.inputs import dictionary_files, json_messages, lines, row_files
from benchmarks.pipelines import Losses
from benchmarks.stage_consume import check_equal
from benchmarks.stage_end_to_end import SKIPPED_STEPS, busy_share, steady_rate
from benchmarks.stage_feed import documented_windows, taken_together
from benchmarks.stage_start import summary_of
from src.channel.window import Provenance, make_window
from src.dictionaries.dictionaries import Dictionaries
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.rows.criteo import parse_messages

ROWS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module")
def dictionaries(folder: Path) -> Dictionaries:
    return dictionary_files(folder).load()


def window_of(values: list[bytes], dictionaries: Dictionaries) -> Array:
    builder = FeatureBuilder(dictionaries)
    ids, weights, labels = stage_features.features(values, builder)
    zeros = np.zeros(len(values), dtype=np.int64)
    provenance = Provenance(zeros.astype(np.int32), zeros, zeros, zeros)
    return make_window(ids, weights, labels, provenance, 1, 0, 0, builder.oov(ids))


def test_both_ways_make_the_same_features(folder: Path, dictionaries: Dictionaries) -> None:
    stage_features.check_equal(lines(folder, ROWS), dictionaries)


def test_features_that_differ_are_noticed(
    folder: Path, dictionaries: Dictionaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documented.RowFunctions, "label", lambda self, value: np.array([7]))
    with pytest.raises(AssertionError):
        stage_features.check_equal(lines(folder, ROWS), dictionaries)


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


def test_a_row_dataset_hands_out_rows_in_order(folder: Path, dictionaries: Dictionaries) -> None:
    window = window_of(lines(folder, ROWS), dictionaries)
    waiting = documented_windows([window[:10], window[10:]])
    source = documented.RowDataset(lambda: waiting.pop(0))
    for number in range(ROWS):
        ids, weights, label = source[number]
        np.testing.assert_array_equal(ids, window["id"][number])
        np.testing.assert_array_equal(weights, window["weight"][number])
        assert label.tolist() == [window["label"][number]]


def test_windows_are_taken_together_as_long_as_the_consumer_would() -> None:
    rows = np.arange(13_500)
    together = taken_together([rows[:4_500], rows[4_500:9_000], rows[9_000:]])
    assert [part.tolist() for part in together] == [rows[:9_000].tolist(), rows[9_000:].tolist()]
    large = [rows[:13_000], rows[13_000:]]
    assert [len(part) for part in taken_together(large)] == [13_000, 500]


def test_a_documented_row_that_is_not_among_ours_is_noticed(
    folder: Path, dictionaries: Dictionaries
) -> None:
    window = window_of(lines(folder, ROWS), dictionaries)
    theirs = documented_windows([window[::-1]])
    check_equal([window], theirs)
    theirs[0][3, 0][5] += 1
    with pytest.raises(AssertionError, match=f"1 of {ROWS}"):
        check_equal([window], theirs)


def test_steady_rate_leaves_the_first_steps_out() -> None:
    losses = Losses()
    losses.times = [0.1 * step for step in range(SKIPPED_STEPS - 1)]
    losses.times += [100 + 0.5 * step for step in range(41)]
    assert math.isclose(steady_rate(losses, batch_size=100), 200)


def test_busy_share_is_the_part_of_the_time_inside_steps(tmp_path: Path) -> None:
    times = [[step, step + 0.1] for step in range(SKIPPED_STEPS - 1)]
    times += [[step, step + 0.75] for step in range(100, 111)]
    path = tmp_path / "times.json"
    path.write_text(str(times))
    assert math.isclose(busy_share(path), 0.75)


def test_import_times_are_summed_up_by_package() -> None:
    said = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:   1000000 |    1000000 |   a.b\n"
        "import time:    500000 |    1500000 | a\n"
        "import time:   2000000 |    2000000 | c\n"
    )
    assert summary_of(said) == ["  2.000 s  c", "  1.500 s  a"]
