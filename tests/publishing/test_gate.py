from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from src.publishing.gate import Gate, Quality
from src.publishing.version_format import Contents
from tests.publishing.made import full_contents, make_manifest

GOOD = Quality(rows=100_000, auc=0.75, log_loss=0.46, calibration=1.0, deviation=0.6)
CONTENTS = full_contents()


def test_quality_is_that_of_the_newest_rows() -> None:
    random = np.random.default_rng(0)
    logit = random.normal(size=500).astype(np.float32)
    is_click = random.random(500) < 0.4
    probability = 1 / (1 + np.exp(-logit.astype(np.float64)))
    quality = Quality.of(logit, is_click)
    assert quality.rows == 500
    assert quality.log_loss == pytest.approx(log_loss(is_click, probability))
    assert quality.auc == pytest.approx(roc_auc_score(is_click, logit), abs=1e-3)
    assert quality.calibration == pytest.approx(probability.sum() / is_click.sum())
    losses = -np.log(np.where(is_click, probability, 1 - probability))
    assert quality.deviation == pytest.approx(losses.std())


def test_without_rows_nothing_is_known() -> None:
    quality = Quality.of(np.zeros(0, np.float32), np.zeros(0, bool))
    assert (quality.rows, quality.auc, quality.log_loss, quality.calibration) == (0, *[None] * 3)
    assert Gate(0.02, GOOD).refusal(CONTENTS, quality) is None


def test_what_is_as_good_passes() -> None:
    gate = Gate(0.02, None)
    assert gate.refusal(CONTENTS, GOOD) is None
    gate.passed(GOOD)
    assert gate.refusal(CONTENTS, replace(GOOD, log_loss=0.4799)) is None


def test_a_worse_log_loss_is_refused_against_the_last_version_published() -> None:
    gate = Gate(0.02, None)
    gate.passed(GOOD)
    for log_loss_now in (0.4801, 0.5):
        refusal = gate.refusal(CONTENTS, replace(GOOD, log_loss=log_loss_now))
        assert refusal is not None and refusal.cause == "log_loss"
        assert f"{log_loss_now:.4f}" in refusal.text and "0.4600" in refusal.text
    assert gate.refusal(CONTENTS, replace(GOOD, log_loss=0.45)) is None


def test_the_first_version_after_a_restart_is_compared_with_the_last_one_before_it() -> None:
    before = replace(make_manifest(5), progressive={**GOOD.to_json(), "log_loss": 0.4})
    gate = Gate(0.02, Quality.of_manifest(before))
    assert gate.refusal(CONTENTS, GOOD) is not None


def test_a_lucky_log_loss_of_few_rows_does_not_lock_the_gate() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        losses = random.exponential(0.46, 20_000)
        gate, refused = Gate(0.02, None), 0
        for rows in (100, 200, 400, 1_000, 5_000, 20_000):
            now = replace(
                GOOD,
                rows=rows,
                log_loss=float(losses[:rows].mean()),
                deviation=float(losses[:rows].std()),
            )
            if gate.refusal(CONTENTS, now) is None:
                gate.passed(now)
            else:
                refused += 1
        assert refused == 0


@pytest.mark.parametrize(
    ("calibration", "passes"),
    [(0.5, True), (2.0, True), (0.499, False), (2.001, False), (None, True)],
)
def test_calibration_must_be_near_one(calibration: float | None, passes: bool) -> None:
    refusal = Gate(0.02, GOOD).refusal(CONTENTS, replace(GOOD, calibration=calibration))
    assert (refusal is None) == passes
    assert refusal is None or refusal.cause == "calibration"


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(number: float) -> None:
    array = np.zeros(9, np.float32)
    array[4] = number
    rows = (np.arange(9, dtype=np.int32), array)
    for contents in (Contents({"wide_bias": array}), Contents({}, {"wide_bias": rows})):
        refusal = Gate(0.02, None).refusal(contents, GOOD)
        assert refusal is not None
        assert (refusal.cause, refusal.text) == ("weights", "wide_bias is not finite")
