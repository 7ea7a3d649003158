from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.make_sample import main, parse_args
from examples.sample.blocks import BLOCK_ROWS
from examples.sample.hidden_weights import DRIFT_ROWS
from examples.sample.rows import click_probabilities, make_rows, write_sample
from src.rows.criteo import CATEGORICAL_COLUMNS, COLUMNS, DENSE_COLUMNS
from src.rows.parsing import parse_messages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sample() -> pa.Table:
    return make_rows(0, 50_000)


def area_under_curve(label: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float:
    """Share of (clicked, not clicked) pairs in which the clicked row scores higher."""
    clicked, other = score[label], np.sort(score[~label])
    return float(np.searchsorted(other, clicked).mean() / len(other))


def log_loss(label: npt.NDArray[np.bool_], probability: npt.NDArray[np.float64]) -> float:
    return float(-np.log(np.where(label, probability, 1 - probability)).mean())


def missing_share(table: pa.Table, column: str) -> float:
    return float(table[column].null_count / table.num_rows)


def test_the_rows_are_the_ones_that_were_always_made(tmp_path: Path) -> None:
    write_sample([tmp_path / "a"], rows=1000, seed=7)
    digest = hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    assert digest == "c2a950e6318a562ec2d09da8768c4ffdbf1ba6a367f71c9567c108d1176b8556"


@given(start=st.integers(0, 3 * BLOCK_ROWS), rows=st.integers(0, 2 * BLOCK_ROWS))
@settings(max_examples=15)
def test_a_row_depends_on_its_number_and_the_seed_alone(start: int, rows: int) -> None:
    stream = make_rows(0, 5 * BLOCK_ROWS, seed=3)
    assert make_rows(start, rows, seed=3).equals(stream.slice(start, rows))


def test_another_seed_gives_other_rows_of_the_same_world(sample: pa.Table) -> None:
    other = make_rows(0, 50_000, seed=1)
    assert not other.equals(sample)
    for column in ("C6", "C9", "C14"):
        assert set(other[column].unique().to_pylist()) == set(sample[column].unique().to_pylist())


def test_the_written_lines_are_rows_of_the_format(tmp_path: Path) -> None:
    write_sample([tmp_path / "a.tsv"], rows=500, seed=2, start_row=100)
    lines = (tmp_path / "a.tsv").read_bytes().split(b"\n")
    assert lines.pop() == b""
    parsed = parse_messages(lines)
    assert len(parsed.label) == 500
    assert not parsed.bad
    made = make_rows(100, 500, seed=2)
    assert parsed.label.tolist() == made["label"].to_pylist()
    for column in DENSE_COLUMNS:
        assert parsed.dense[column].fillna(-99).tolist() == made[column].fill_null(-99).to_pylist()
    assert parsed.categorical["C26"].isna().tolist() == pc.is_null(made["C26"]).to_pylist()


@pytest.mark.parametrize("files", [2, 3])
@pytest.mark.parametrize("rows", [0, 1, 10, 2 * BLOCK_ROWS + 1])
def test_several_files_take_the_rows_in_turn(tmp_path: Path, files: int, rows: int) -> None:
    whole = tmp_path / "whole"
    parts = [tmp_path / str(number) for number in range(files)]
    write_sample([whole], rows, start_row=5)
    write_sample(parts, rows, start_row=5)
    lines = whole.read_bytes().splitlines()
    for number, part in enumerate(parts):
        assert part.read_bytes().splitlines() == lines[number::files]


def test_columns_look_like_the_public_data_set(sample: pa.Table) -> None:
    assert sample.column_names == list(COLUMNS)
    for column in CATEGORICAL_COLUMNS:
        assert pc.all(pc.match_substring_regex(sample[column], "^[0-9a-f]{8}$")).as_py()
    sizes = {c: len(sample[c].drop_null().unique()) for c in CATEGORICAL_COLUMNS}
    assert (sizes["C9"], sizes["C17"], sizes["C14"]) == (3, 10, 27)
    assert 1000 < sizes["C13"] < 5000
    assert sizes["C3"] > 10_000
    assert missing_share(sample, "C22") == pytest.approx(0.76, abs=0.01)
    assert missing_share(sample, "C19") == pytest.approx(0.44, abs=0.01)
    assert missing_share(sample, "I1") == pytest.approx(0.45, abs=0.01)
    assert missing_share(sample, "I2") == missing_share(sample, "C1") == 0


def test_dense_columns_are_long_tailed_counts_and_only_i2_goes_below_zero(
    sample: pa.Table,
) -> None:
    bounds = {column: pc.min_max(sample[column]).as_py() for column in DENSE_COLUMNS}
    assert bounds.pop("I2")["min"] == -3
    assert {bound["min"] for bound in bounds.values()} == {0}
    median = pc.approximate_median(sample["I5"]).as_py()
    assert median == pytest.approx(2500, rel=0.1)
    assert bounds["I5"]["max"] > 200 * median


def test_categories_are_zipf_distributed(sample: pa.Table) -> None:
    counts = np.sort(pc.value_counts(sample["C3"].drop_null()).field(1).to_numpy())[::-1]
    assert counts[0] / counts.sum() > 0.05
    # With exponent 1.05, ten times the rank means about a tenth of the count.
    assert 6 < counts[2] / counts[29] < 20
    assert (counts == 1).sum() > 0.4 * len(counts)


@pytest.mark.parametrize("start_row", [0, 10 * DRIFT_ROWS])
def test_clicks_are_a_quarter_of_the_rows_and_can_be_learned(start_row: int) -> None:
    label = make_rows(start_row, 4 * DRIFT_ROWS)["label"].to_numpy().astype(bool)
    probability = click_probabilities(start_row, 4 * DRIFT_ROWS)
    assert label.mean() == pytest.approx(0.25, abs=0.02)
    assert probability.mean() == pytest.approx(label.mean(), abs=0.003)
    assert 0.78 < area_under_curve(label, probability) < 0.86
    base_rate = np.full(len(label), label.mean())
    assert log_loss(label, probability) < 0.8 * log_loss(label, base_rate)


def test_some_pairs_of_columns_interact_beyond_the_sum_of_their_effects() -> None:
    rows = make_rows(0, 150_000)
    label = rows["label"].to_numpy()
    one, other = (
        rows[column].combine_chunks().dictionary_encode().indices.to_numpy()
        for column in ("C9", "C17")
    )
    cells = one * 10 + other
    size = np.bincount(cells, minlength=30).reshape(3, 10)
    rate = np.bincount(cells, label, 30).reshape(3, 10) / size
    logit = np.log(rate / (1 - rate))
    # What is left of a table when its rows' and columns' means are taken away is interaction.
    left = logit - logit.mean(0) - logit.mean(1, keepdims=True) + logit.mean()
    noise = np.sqrt((1 / (size * rate * (1 - rate))).mean())
    assert left.std() > 3 * noise


def test_new_values_appear_and_popular_ones_change_as_rows_advance() -> None:
    history, later = make_rows(0, 20_000), make_rows(500_000, 20_000)
    for column in ("C7", "C11", "C26"):
        known = set(history[column].unique().to_pylist())
        unseen = 1 - pc.mean(pc.is_in(later[column], pa.array(known)).cast(pa.int8())).as_py()
        soon = make_rows(20_000, 20_000)[column]
        unseen_soon = 1 - pc.mean(pc.is_in(soon, pa.array(known)).cast(pa.int8())).as_py()
        assert unseen > unseen_soon + 0.2
    top = [pc.value_counts(rows["C7"]).to_pylist() for rows in (history, later)]
    top_ten = [{row["values"] for row in sorted(t, key=lambda r: -r["counts"])[:10]} for t in top]
    assert len(top_ten[0] & top_ten[1]) < 8
    assert set(history["C6"].unique().to_pylist()) == set(later["C6"].unique().to_pylist())


def test_the_click_rate_and_some_weights_drift() -> None:
    rates = [click_probabilities(start * DRIFT_ROWS, 20_000).mean() for start in range(0, 4)]
    assert max(rates) - min(rates) > 0.03
    early, late = make_rows(0, 60_000), make_rows(8 * DRIFT_ROWS, 60_000)
    values = early["C17"].value_counts().field(0).to_pylist()
    changes = []
    for value in values:
        rate = [
            rows.filter(pc.equal(rows["C17"], value))["label"].to_numpy().mean()
            for rows in (early, late)
        ]
        changes.append(np.log(rate[1] / (1 - rate[1])) - np.log(rate[0] / (1 - rate[0])))
    assert np.std(changes) > 0.2  # each by another amount: not the click rate alone


def test_negative_numbers_are_refused() -> None:
    for numbers in ((-1, 5, 0), (0, -5, 0), (0, 5, -1)):
        with pytest.raises(ValueError, match="must not be negative"):
            make_rows(*numbers)
    with pytest.raises(SystemExit):
        parse_args(["--rows", "-1"])


def test_a_file_named_twice_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "a.tsv")
    assert main(["--rows", "10", "--output", path, path]) == 1
    assert "named twice" in caplog.text
    assert not Path(path).exists()


def test_the_script_writes_the_files_its_flags_name(tmp_path: Path) -> None:
    script = ROOT / "examples" / "make_sample.py"
    flags = ["--rows", "20", "--output", "a.tsv", "b.tsv", "--seed", "4", "--start_row", "9"]
    command = [sys.executable, str(script), *flags]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    write_sample([tmp_path / "c", tmp_path / "d"], rows=20, seed=4, start_row=9)
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "c").read_bytes()
    assert (tmp_path / "b.tsv").read_bytes() == (tmp_path / "d").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv", "b.tsv", "c", "d"]
