"""Progressive metrics against scikit-learn, and their window, state and sums."""

from __future__ import annotations

import base64
import io
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from src.process.arrays import Array
from src.watching.metrics import (
    BINS,
    COUNTED_TOGETHER,
    MAX_LOGIT,
    ProgressiveMetrics,
    Scores,
    Totals,
    bin_of,
    decode_state,
    encode_state,
    logit_of,
)

CLICK_RATE_LOGITS = {"half": 0.0, "a quarter": -1.05, "one in a hundred": -4.6}


def probability_of(logit: Array) -> Array:
    return 1 / (1 + np.exp(-logit.astype(np.float64)))


def clicks_and_logits(
    rows: int, center: float, spread: float, seed: int = 1
) -> tuple[Array, Array]:
    """Rows whose true logits spread by 1 while the model's spread by something else."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=rows)
    clicks = random.random(rows) < probability_of(center + truth)
    return (center + spread * truth).astype(np.float32), clicks.astype(np.float32)


def counted(logit: Array, label: Array, batch: int = 100, **options: int) -> ProgressiveMetrics:
    metrics = ProgressiveMetrics(**options)
    for begin in range(0, len(logit), batch):
        metrics.add(logit[begin : begin + batch], label[begin : begin + batch])
    return metrics


def assert_same(one: Totals, other: Totals) -> None:
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.sums, other.sums)


@pytest.mark.parametrize("center", CLICK_RATE_LOGITS.values(), ids=CLICK_RATE_LOGITS.keys())
@pytest.mark.parametrize("spread", [0.02, 0.1, 1.0, 5.0])
def test_auc_is_within_1e_4_of_the_exact_one_however_badly_scores_are_calibrated(
    center: float, spread: float
) -> None:
    logit, label = clicks_and_logits(200_000, center, spread)
    auc = counted(logit, label, batch=5000).life().scores().auc
    assert auc == pytest.approx(roc_auc_score(label, logit), abs=1e-4)
    assert auc is not None and auc > 0.6


def test_auc_of_an_untrained_model_whose_scores_are_all_near_zero_is_exact_enough() -> None:
    logit, label = clicks_and_logits(100_000, 0.0, spread=1e-5)
    auc = counted(logit, label, batch=5000).life().scores().auc
    assert auc == pytest.approx(roc_auc_score(label, logit), abs=1e-4)


def test_ties_count_half_as_in_the_exact_auc() -> None:
    logit = np.array([0.0, 0.0, 0.0, 1.0, 1.0, -1.0], dtype=np.float32)
    label = np.array([0, 1, 1, 0, 1, 0], dtype=np.float32)
    assert counted(logit, label).life().scores().auc == pytest.approx(roc_auc_score(label, logit))
    assert counted(np.zeros(6, np.float32), label).life().scores().auc == 0.5


def test_log_loss_entropy_and_calibration_are_those_of_their_definitions() -> None:
    logit, label = clicks_and_logits(5000, -1.05, 0.7)
    scores = counted(logit, label).life().scores()
    p = probability_of(logit)
    rate = label.mean(dtype=np.float64)
    assert scores.log_loss == pytest.approx(log_loss(label, p), rel=1e-9)
    base = log_loss(label, np.full(label.size, rate))
    assert scores.normalised_entropy == pytest.approx(log_loss(label, p) / base, rel=1e-9)
    assert scores.calibration == pytest.approx(p.sum() / label.sum(), rel=1e-9)
    assert (scores.rows, scores.clicks) == (5000, int(label.sum()))


def test_extreme_logits_lose_neither_finiteness_nor_accuracy() -> None:
    logit = np.array([-800.0, 800.0, -40.0, 40.0], dtype=np.float32)
    right, wrong = np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0])
    assert counted(logit, wrong).life().scores().log_loss == pytest.approx(420.0)
    good = counted(logit, right).life().scores()
    assert good.log_loss == pytest.approx(2 * np.exp(-40) / 4, rel=1e-6)
    assert good.auc == 1.0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_alone_has_a_loss_but_no_auc(label: float) -> None:
    scores = counted(np.ones(10, np.float32), np.full(10, label)).life().scores()
    assert scores.auc is None and scores.normalised_entropy is None
    assert scores.log_loss is not None
    assert (scores.calibration is None) == (label == 0.0)


def test_no_rows_have_no_scores_and_json_can_hold_them() -> None:
    metrics = ProgressiveMetrics()
    nothing = Scores(0, 0, None, None, None, None)
    assert metrics.window().scores() == metrics.life().scores() == nothing
    assert json.loads(json.dumps(nothing.to_json()))["auc"] is None


@pytest.mark.parametrize("window_rows", [1, 7, 100, 250, 999])
def test_window_holds_exactly_the_newest_rows(window_rows: int) -> None:
    logit, label = clicks_and_logits(1000, 0.0, 1.0)
    metrics = counted(logit, label, batch=64, window_rows=window_rows)
    newest = counted(logit[-window_rows:], label[-window_rows:]).life()
    np.testing.assert_array_equal(metrics.window().counts, newest.counts)
    np.testing.assert_allclose(metrics.window().sums, newest.sums, rtol=1e-12)
    assert metrics.life().scores().rows == 1000


def test_state_goes_on_exactly_through_json() -> None:
    logit, label = clicks_and_logits(3000, -1.0, 0.5)
    unbroken = counted(logit, label, window_rows=777)
    before = counted(logit[:1700], label[:1700], window_rows=777)
    text = json.loads(json.dumps(encode_state(before.state())))
    after = ProgressiveMetrics.from_state(decode_state(text), window_rows=777)
    for begin in range(1700, 3000, 100):
        after.add(logit[begin : begin + 100], label[begin : begin + 100])
    assert_same(after.life(), unbroken.life())
    assert_same(after.window(), unbroken.window())
    assert after.since_start().scores().rows == 1300
    assert unbroken.since_start().scores().rows == 3000


@pytest.mark.parametrize("rows", [0, 1, 3000])
def test_a_state_comes_back_as_it_was_also_from_checkpoints_of_earlier_versions(rows: int) -> None:
    state = counted(*clicks_and_logits(rows, -1.0, 0.5), window_rows=777).state()
    packed = io.BytesIO()
    np.savez(packed, **state)
    earlier = base64.b64encode(zlib.compress(packed.getvalue(), 1)).decode()
    for text in (encode_state(state), earlier):
        decoded = decode_state(text)
        assert decoded.keys() == state.keys()
        for name, values in state.items():
            np.testing.assert_array_equal(decoded[name], values, err_msg=name)
    assert decode_state(encode_state(state))["label"].dtype == bool


@pytest.mark.parametrize("window_rows", [50, 400])
def test_state_of_another_window_size_keeps_the_newest_rows_there_are(window_rows: int) -> None:
    logit, label = clicks_and_logits(1000, 0.0, 1.0)
    state = counted(logit, label, window_rows=100).state()
    resized = ProgressiveMetrics.from_state(state, window_rows)
    kept = min(window_rows, 100)
    newest = counted(logit[-kept:], label[-kept:]).life()
    np.testing.assert_array_equal(resized.window().counts, newest.counts)
    assert resized.life().scores().rows == 1000


def test_state_taken_once_does_not_move_on_with_the_metrics() -> None:
    logit, label = clicks_and_logits(200, 0.0, 1.0)
    metrics = counted(logit, label, window_rows=100)
    state = metrics.state()
    wanted = encode_state(state)
    metrics.add(logit, label)
    assert encode_state(state) == wanted


@pytest.mark.parametrize("batch", [1, 30, 100, COUNTED_TOGETHER + 1])
def test_scores_are_the_same_however_often_they_are_asked_for(batch: int) -> None:
    logit, label = clicks_and_logits(2 * COUNTED_TOGETHER + 77, -1.0, 0.5)
    seldom = counted(logit, label, batch, window_rows=555)
    often = ProgressiveMetrics(window_rows=555)
    for begin in range(0, len(logit), batch):
        often.add(logit[begin : begin + batch], label[begin : begin + batch])
        if begin % 7 == 0:
            assert often.life().scores().rows == min(begin + batch, len(logit))
    assert_same(often.life(), seldom.life())
    assert_same(often.since_start(), seldom.since_start())
    assert_same(often.window(), seldom.window())
    assert encode_state(often.state()) == encode_state(seldom.state())


def test_the_callers_arrays_may_be_used_again() -> None:
    logit, label = np.array([1.0, -1.0], dtype=np.float32), np.array([True, False])
    metrics = ProgressiveMetrics()
    metrics.add(logit, label)
    logit[:], label[:] = -5.0, True
    assert_same(metrics.life(), counted(np.array([1.0, -1.0]), np.array([1, 0])).life())


def test_a_batch_without_rows_counts_for_nothing() -> None:
    logit, label = clicks_and_logits(60, 0.0, 1.0)
    metrics = ProgressiveMetrics()
    for begin in (0, 30):
        metrics.add(logit[:0], label[:0])
        metrics.add(logit[begin : begin + 30], label[begin : begin + 30])
        metrics.add(logit[:0], label[:0])
    assert_same(metrics.life(), counted(logit, label, batch=30).life())


def test_totals_of_ranks_add_up_to_those_of_all_rows() -> None:
    logit, label = clicks_and_logits(2000, -1.0, 0.5)
    ranks = [counted(logit[rank::2], label[rank::2]).life() for rank in range(2)]
    whole = counted(logit, label).life()
    np.testing.assert_array_equal((ranks[0] + ranks[1]).counts, whole.counts)
    merged, single = (ranks[0] + ranks[1]).scores(), whole.scores()
    assert merged.auc == single.auc
    assert merged.log_loss == pytest.approx(single.log_loss, rel=1e-12)


@pytest.mark.parametrize(
    ("logit", "label", "reason"),
    [
        ([0.0, np.nan], [0, 1], "not finite"),
        ([0.0, np.inf], [0, 1], "not finite"),
        ([0.0, 1.0], [0, 0.5], "neither 0 nor 1"),
        ([0.0, 1.0], [0], "2 logits for 1 labels"),
    ],
)
def test_what_cannot_be_counted_is_refused_and_counts_for_nothing(
    logit: list[float], label: list[float], reason: str
) -> None:
    metrics = ProgressiveMetrics()
    with pytest.raises(ValueError, match=reason):
        metrics.add(np.array(logit), np.array(label))
    assert metrics.life().scores().rows == metrics.window().scores().rows == 0


@pytest.mark.parametrize("text", ["", "!", "aGVsbG8=", encode_state({"place": np.zeros(1)})])
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ProgressiveMetrics.from_state(decode_state(text))


def test_state_of_other_bins_is_refused_with_both_numbers() -> None:
    state = {**ProgressiveMetrics().state(), "bins": np.array([8])}
    with pytest.raises(ValueError, match=f"8 bins, expected {BINS}"):
        ProgressiveMetrics.from_state(state)


def test_window_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="window_rows is 0"):
        ProgressiveMetrics(0)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2))
def test_bins_keep_the_order_of_logits_and_stay_in_range(logits: list[float]) -> None:
    bins = bin_of(np.sort(np.array(logits, dtype=np.float32)))
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0 and bins.max() < BINS


def test_bins_reach_from_end_to_end_and_tell_near_logits_apart() -> None:
    assert bin_of(np.array([-MAX_LOGIT, MAX_LOGIT])).tolist() == [0, BINS - 1]
    assert bin_of(np.array([-4.6, -4.599]))[0] < bin_of(np.array([-4.6, -4.599]))[1]


def test_logit_of_a_probability_is_the_inverse_of_the_sigmoid_and_finite_at_the_ends() -> None:
    logit = np.array([-30.0, -4.6, 0.0, 1.0, 30.0])
    np.testing.assert_allclose(logit_of(probability_of(logit)), logit, rtol=1e-2)
    np.testing.assert_allclose(logit_of(probability_of(logit[1:4])), logit[1:4], rtol=1e-12)
    assert np.isfinite(logit_of(np.array([0.0, 1.0]))).all()
