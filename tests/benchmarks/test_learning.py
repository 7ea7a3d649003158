"""The comparison of ways to learn: which rows it takes, how it judges, and when it fails."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.learning import (
    HEADER,
    LEAST_SPEED,
    WAYS,
    LearningError,
    Learnt,
    as_upstream_ships,
    config_of,
    judged,
    main,
    parse_args,
    prepare,
    shortcomings,
)
from examples.make_sample import write_sample
from src.features.feature_builder import FeatureBuilder
from src.rows.criteo import parse_messages
from tests.features.test_column_functions import make_dictionaries

HISTORY = 250
LINEAR = Learnt("vowpal_wabbit", 0.75, 0.49, 0.76, 0.48, 20_000.0)
SPARSE = Learnt("sparse", 0.72, 0.51, 0.73, 0.5, 2_000.0)
ADAPTIVE = Learnt("adaptive", 0.76, 0.48, 0.77, 0.47, 1_500.0)


def asked(folder: Path, *flags: str) -> argparse.Namespace:
    return parse_args([f"--work_dir={folder / 'work'}", f"--history_rows={HISTORY}", *flags])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clicks.tsv"
    write_sample([path], 780)
    return path


class TestRows:
    def test_of_a_file_are_all_the_whole_batches_behind_the_history(
        self, data: Path, tmp_path: Path
    ) -> None:
        rows = prepare(asked(tmp_path, f"--data={data}"))
        assert (rows.path, rows.history, rows.stream) == (data, HISTORY, 500)
        assert rows.made.rows == HISTORY

    @pytest.mark.parametrize(("asked_for", "stream"), [(299, 200), (100, 100), (9999, 500)])
    def test_of_a_file_are_no_more_than_asked_for(
        self, asked_for: int, stream: int, data: Path, tmp_path: Path
    ) -> None:
        assert prepare(asked(tmp_path, f"--data={data}", f"--rows={asked_for}")).stream == stream

    @pytest.mark.parametrize("flags", [["--history_rows=681"], ["--history_rows=9999"]])
    def test_that_fill_no_batch_are_refused_with_the_file(
        self, flags: list[str], data: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(LearningError) as refused:
            prepare(asked(tmp_path, f"--data={data}", *flags))
        history = flags[0].split("=")[1]
        assert str(refused.value) == f"{data} has no 100 rows behind the {history} of the history"

    def test_are_made_once_where_no_file_is_named(self, tmp_path: Path) -> None:
        flags = asked(tmp_path, "--rows=300")
        rows = prepare(flags)
        assert (rows.history, rows.stream) == (HISTORY, 300)
        assert len(rows.path.read_bytes().splitlines()) == HISTORY + 300
        written = rows.path.stat().st_mtime_ns
        assert prepare(flags).path.stat().st_mtime_ns == written
        assert prepare(asked(tmp_path, "--rows=400")).path != rows.path


class TestFlags:
    @pytest.mark.parametrize("name", ["rows", "history_rows"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_that_are_not_positive_are_refused_by_name(
        self, name: str, value: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            parse_args([f"--{name}={value}"])
        assert stopped.value.code == 2
        assert f"--{name} must be positive" in capsys.readouterr().err

    def test_ask_for_all_ways_unless_some_are_named(self) -> None:
        assert tuple(parse_args([]).ways) == WAYS
        assert parse_args(["--ways", "adaptive", "sparse"]).ways == ["adaptive", "sparse"]


class TestWays:
    def test_differ_in_sparse_and_in_what_adaptive_yaml_says_alone(self) -> None:
        documented = config_of("documented")
        assert config_of("upstream") == documented
        assert config_of("sparse") == dataclasses.replace(documented, sparse=True)
        adaptive = config_of("adaptive")
        assert adaptive.admit_count > 0 == documented.admit_count
        assert (adaptive.dense_transform, documented.dense_transform) == ("bucket", "minmax")
        # Only then are the same rows the same batches.
        assert adaptive.batch_size == documented.batch_size

    def test_upstream_finds_no_value_and_counts_dense_columns_from_one(self) -> None:
        dictionaries = make_dictionaries(C1_a=39, C26_b=40)
        line = b"\t".join([b"1", *[b"2"] * 13, b"a", *[b""] * 24, b"b"])
        ids, _ = FeatureBuilder(dictionaries).build(parse_messages([line, line]))
        assert (ids[:, [13, 38]] == [39, 40]).all(), "the right features do find them"
        shipped = as_upstream_ships(ids, dictionaries)
        assert (shipped == [*range(1, 14), *range(13, 39)]).all()
        assert ids[0, 0] == 0, "the right ids stay as they are"


class TestJudgement:
    def test_is_that_of_all_rows_and_of_the_second_half(self) -> None:
        random = np.random.default_rng(3)
        logits = random.normal(-1, 1.5, 501).astype(np.float32)
        labels = (random.random(501) < 0.3).astype(np.float32)
        found = judged("sparse", labels, logits, seconds=2.0)
        p = 1 / (1 + np.exp(-logits.astype(np.float64)))
        assert (found.way, found.rows_per_second) == ("sparse", 250.5)
        assert found.auc == pytest.approx(roc_auc_score(labels, p))
        assert found.log_loss == pytest.approx(log_loss(labels, p))
        assert found.last_auc == pytest.approx(roc_auc_score(labels[250:], p[250:]))
        assert found.last_log_loss == pytest.approx(log_loss(labels[250:], p[250:]))

    def test_shows_its_numbers_under_the_names_in_the_header(self) -> None:
        line = str(Learnt("adaptive", 0.76543, 0.48766, 0.77654, 0.47654, 12_214.4))
        assert line.split() == ["adaptive", "0.7654", "0.4877", "0.7765", "0.4765", "12214"]
        assert len(line) == len(HEADER)
        for name, number in (("AUC", "0.7654"), ("log loss", "0.4877"), ("rows/s", "12214")):
            assert line.index(number) + len(number) == HEADER.index(name) + len(name)


class TestShortcomings:
    def test_are_none_where_adaptive_is_better_and_fast_enough(self) -> None:
        assert shortcomings([SPARSE, LINEAR, ADAPTIVE]) == []

    @pytest.mark.parametrize(
        "worse", [{"auc": LINEAR.auc}, {"log_loss": LINEAR.log_loss}, {"auc": 0.7}]
    )
    def test_a_linear_learner_must_be_beaten_on_either_score(self, worse: dict[str, float]) -> None:
        ours = dataclasses.replace(ADAPTIVE, **worse)  # type: ignore[arg-type]
        (phrase,) = shortcomings([SPARSE, LINEAR, ours])
        assert "does not beat Vowpal Wabbit" in phrase

    def test_speed_is_held_against_that_of_sparse(self) -> None:
        least = LEAST_SPEED * SPARSE.rows_per_second
        assert least == 1200
        assert not shortcomings(
            [SPARSE, LINEAR, dataclasses.replace(ADAPTIVE, rows_per_second=least)]
        )
        slow = dataclasses.replace(ADAPTIVE, rows_per_second=least - 1)
        (phrase,) = shortcomings([SPARSE, LINEAR, slow])
        assert "less than 60% of the rows/s of sparse" in phrase

    def test_of_what_was_not_run_nothing_is_said(self) -> None:
        bad = Learnt("adaptive", 0.5, 0.7, 0.5, 0.7, 1.0)
        assert shortcomings([bad]) == []
        assert len(shortcomings([bad, SPARSE])) == 1
        assert len(shortcomings([bad, LINEAR])) == 1
        assert shortcomings([SPARSE, LINEAR]) == []


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"1\t2\n", "clicks.tsv"),
        (b"", "clicks.tsv has no 100 rows behind the 250 of the history"),
    ],
)
def test_file_that_cannot_be_used_is_named_and_nothing_is_run(
    content: bytes | None, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "clicks.tsv"
    if content is not None:
        data.write_bytes(content * 400)
    work = f"--work_dir={tmp_path / 'work'}"
    assert main([f"--data={data}", f"--history_rows={HISTORY}", work]) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert said in line and str(data) in line
