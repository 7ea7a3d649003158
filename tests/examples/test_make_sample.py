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
from examples.sample.best_scores import BestScores
from examples.sample.blocks import BLOCK_ROWS
from examples.sample.columns import CATEGORICAL, DENSE, PAIRS
from examples.sample.distributions import (
    cell_shares,
    cells_of,
    dense_distribution,
    drawn,
    is_there,
    zipf_distribution,
)
from examples.sample.hidden_weights import DRIFT_ROWS, pair_weights, tokens_of
from examples.sample.rows import best_scores, click_probabilities, make_rows, write_sample
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
    lines = (tmp_path / "a").read_bytes().splitlines(keepends=True)
    # These change with the hidden signal: it decides the labels.
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    assert digest == "c4854098f485b0dc0a30bddd5caa34662d76345a1932f8cabe973284b23f74a3"
    # These change only with the distribution of the columns.
    digest = hashlib.sha256(b"".join(line[1:] for line in lines)).hexdigest()
    assert digest == "ba7ee77041f700158d16980141d9fe61470b9ab04dfde1d630e6b62985eb6167"


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


@pytest.mark.parametrize("column", ["C20", "C25", "C1", "I7", "I13"])
def test_a_cell_has_its_share_of_the_rows(column: str) -> None:
    draws = np.random.default_rng(3).integers(0, 1 << 64, 200_000, dtype=np.uint64)
    place = COLUMNS.index(column) - 1
    if column in DENSE_COLUMNS:
        table, missing = dense_distribution(place), DENSE[place].missing
    else:
        shape = CATEGORICAL[place - len(DENSE_COLUMNS)]
        table, missing = zipf_distribution(shape.size), shape.missing
    cells = cells_of(column, drawn(draws, table)[0], is_there(draws, missing))
    shares = cell_shares(column)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == missing
    found = np.bincount(cells, minlength=len(shares)) / len(cells)
    assert found == pytest.approx(shares, abs=0.005)


def test_the_cells_of_a_dense_column_are_octaves() -> None:
    numbers = np.array([0, 1, 2, 3, 6, 7, 14, 15, 99])
    there = np.array([True] * 8 + [False])
    assert cells_of("I7", numbers, there).tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 0]
    assert cells_of("I2", numbers - 3, there).tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 0]


@pytest.mark.parametrize(("one", "other"), [pair[:2] for pair in PAIRS])
def test_the_weights_of_a_pair_average_to_nothing_over_either_column(one: str, other: str) -> None:
    weights = pair_weights(one, other).astype(np.float64)
    left, right = cell_shares(one), cell_shares(other)
    assert np.abs(left @ weights).max() < 1e-4
    assert np.abs(weights @ right).max() < 1e-4
    assert left @ weights**2 @ right == pytest.approx(1, abs=1e-4)
    assert len(np.unique(weights)) > 0.99 * weights.size
    renewing = {c for c, shape in zip(CATEGORICAL_COLUMNS, CATEGORICAL) if shape.renews}
    assert not renewing & {one, other}, "a slot then has one value after another"


def cells_in(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    if column in DENSE_COLUMNS:
        numbers = table[column]
    else:
        place = CATEGORICAL_COLUMNS.index(column)
        slots = np.arange(CATEGORICAL[place].size)
        values = [f"{token:08x}" for token in tokens_of(place, slots, slots, renews=False)]
        numbers = pc.index_in(table[column], pa.array(values), skip_nulls=True)
    there = numbers.is_valid().to_numpy()
    return cells_of(column, numbers.fill_null(0).to_numpy().astype(np.int64), there)


@pytest.mark.parametrize(("one", "other", "effect"), PAIRS)
def test_a_pair_of_values_has_its_hidden_weight(
    one: str, other: str, effect: float, sample: pa.Table
) -> None:
    probability = click_probabilities(0, 50_000)
    logit = np.log(probability / (1 - probability))
    weight = pair_weights(one, other)[cells_in(sample, one), cells_in(sample, other)]
    # All else in the logit has nothing to do with these weights, so their slope is the effect.
    slope = ((logit - logit.mean()) * weight).mean() / (weight**2).mean()
    assert slope == pytest.approx(effect, abs=0.03)


def test_the_best_scores_are_those_of_the_true_probabilities(tmp_path: Path) -> None:
    first, rows = 5, 2 * BLOCK_ROWS
    label = make_rows(first, rows, seed=2)["label"].to_numpy().astype(bool)
    probability = click_probabilities(first, rows, seed=2)
    best = best_scores(first, rows, seed=2)
    assert best.auc == pytest.approx(area_under_curve(label, probability), abs=1e-5)
    assert best.log_loss == pytest.approx(log_loss(label, probability))
    parts = [tmp_path / "a", tmp_path / "b"]
    assert write_sample(parts, rows, seed=2, start_row=first) == best
    assert str(best) == f"AUC {best.auc:.4f}, log loss {best.log_loss:.4f}"


def test_no_rows_have_no_best_scores() -> None:
    assert best_scores(0, 0) == BestScores(None, None)
    assert str(best_scores(0, 0)) == "AUC none, log loss none"


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
    best = write_sample([tmp_path / "c", tmp_path / "d"], rows=20, seed=4, start_row=9)
    assert done.stderr.endswith(f"best possible scores of these rows: {best}\n")
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "c").read_bytes()
    assert (tmp_path / "b.tsv").read_bytes() == (tmp_path / "d").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv", "b.tsv", "c", "d"]
