"""Reliability tables against sorted scores cut in ten."""

from __future__ import annotations

import json

import numpy as np
import pytest

from src.process.arrays import Array
from src.watching.metrics import BINS, ProgressiveMetrics, Totals, bin_of, middle_of
from src.watching.reliability import GROUPS, Group, reliability


def counted(logit: Array, label: Array) -> Totals:
    metrics = ProgressiveMetrics()
    metrics.add(logit, label)
    return metrics.life()


def probability_of(logit: Array) -> Array:
    return 1 / (1 + np.exp(-logit.astype(np.float64)))


def test_the_middle_of_a_bin_lies_in_it() -> None:
    bins = np.arange(BINS)
    np.testing.assert_array_equal(bin_of(middle_of(bins)), bins)


@pytest.mark.parametrize("rows", [10, 11, 19, 1234, 50_000])
@pytest.mark.parametrize("center", [0.0, -1.05, -4.6])
@pytest.mark.parametrize("spread", [0.02, 1.0, 5.0])
def test_groups_are_those_of_the_sorted_scores_within_the_width_of_a_bin(
    rows: int, center: float, spread: float
) -> None:
    random = np.random.default_rng(rows)
    logit = random.normal(center, spread, rows).astype(np.float32)
    label = random.random(rows) < probability_of(0.7 * logit)
    totals = counted(logit, label)
    found = reliability(totals)
    order = np.argsort(logit)
    cuts = rows * np.arange(1, GROUPS) // GROUPS
    predicted = [part.mean() for part in np.split(probability_of(logit[order]), cuts)]
    clicked = [part.mean() for part in np.split(label[order], cuts)]
    sizes = np.diff([0, *cuts, rows])
    assert [group.rows for group in found] == sizes.tolist()
    fullest = totals.counts.sum(axis=0).max()
    np.testing.assert_allclose([group.predicted for group in found], predicted, atol=2e-5)
    for group, rate in zip(found, clicked):  # only the bins at both ends of a group can differ
        exact = 1e-9 if fullest == 1 else 2 * fullest / group.rows
        assert group.click_rate == pytest.approx(rate, abs=exact)


def test_fewer_than_ten_rows_are_a_group_each() -> None:
    logit = np.array([1.0, -2.0, 0.5])
    found = reliability(counted(logit, np.array([1, 0, 1])))
    assert [(group.click_rate, group.rows) for group in found] == [(0, 1), (1, 1), (1, 1)]
    predicted = [group.predicted for group in found]
    np.testing.assert_allclose(predicted, probability_of(np.sort(logit)), atol=2e-5)
    assert reliability(Totals()) == []


def test_equal_scores_share_their_clicks_evenly() -> None:
    label = np.arange(25) < 5
    found = reliability(counted(np.full(25, -1.05), label))
    assert sum(group.rows for group in found) == 25
    assert {group.rows for group in found} == {2, 3}
    assert len(found) == GROUPS
    for group in found:
        assert group.click_rate == pytest.approx(0.2, rel=1e-9)
        assert group.predicted == pytest.approx(float(probability_of(np.array(-1.05))), abs=2e-5)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_alone_has_that_click_rate_in_every_group(label: float) -> None:
    logit = np.linspace(-40, 40, 100)
    found = reliability(counted(logit, np.full(100, label)))
    assert [group.click_rate for group in found] == [label] * GROUPS
    assert found[0].predicted < 1e-10 and found[-1].predicted > 1 - 1e-10


def test_json_can_hold_a_group() -> None:
    [group] = reliability(counted(np.array([0.0]), np.array([1])))
    assert Group(**json.loads(json.dumps(group.to_json()))) == group
