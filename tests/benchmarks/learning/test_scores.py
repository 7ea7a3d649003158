"""How a way is judged, and when a comparison fails."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.learning.scores import HEADER, LEAST_SPEED, Learnt, judged, shortcomings

LINEAR = Learnt("vowpal_wabbit", 0.75, 0.49, 0.76, 0.48, 20_000.0)
PAIRS = Learnt("vowpal_wabbit_pairs", 0.757, 0.485, 0.765, 0.481, 10_000.0)
SPARSE = Learnt("sparse", 0.72, 0.51, 0.73, 0.5, 2_000.0)
ADAPTIVE = Learnt("adaptive", 0.76, 0.48, 0.77, 0.47, 1_500.0)


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

    @pytest.mark.parametrize(
        "worse", [{"auc": PAIRS.auc}, {"log_loss": PAIRS.log_loss}, {"log_loss": 0.486}]
    )
    def test_a_learner_with_pairs_must_be_beaten_on_either_score(
        self, worse: dict[str, float]
    ) -> None:
        assert shortcomings([SPARSE, LINEAR, PAIRS, ADAPTIVE]) == []
        ours = dataclasses.replace(ADAPTIVE, **worse)  # type: ignore[arg-type]
        (phrase,) = shortcomings([SPARSE, LINEAR, PAIRS, ours])
        assert "does not beat Vowpal Wabbit with pairs" in phrase

    def test_each_peer_that_is_not_beaten_is_named(self) -> None:
        bad = dataclasses.replace(ADAPTIVE, auc=0.5)
        assert len(shortcomings([LINEAR, PAIRS, bad])) == 2

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
        assert len(shortcomings([bad, PAIRS])) == 1
        assert shortcomings([LINEAR, PAIRS]) == []
        assert shortcomings([SPARSE, LINEAR]) == []
