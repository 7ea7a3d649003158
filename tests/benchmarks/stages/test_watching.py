"""Watched steps are really watched, and watching that would change them is noticed."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from benchmarks.documented.step import DOCUMENTED_CONFIG, own_step, random_batch
from benchmarks.stages import watching as stage_watching
from benchmarks.stages.train_step import Batches
from benchmarks.stages.watching import (
    ROUND_STEPS,
    SERVED_ROWS,
    KnownBatches,
    check_equal,
    steps_between_scrapes,
    unwatched,
    watched,
)

SMALL = dataclasses.replace(
    DOCUMENTED_CONFIG, batch_size=10, vocab_size=300, emb_dim=2, deep_layer_dim=(4, 2)
)
REPORT_STEPS = 100


@pytest.fixture(scope="module")
def batches() -> Batches:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    random = np.random.default_rng(1)
    return [random_batch(SMALL, random) for _ in range(3)]


@pytest.fixture(scope="module")
def network(batches: Batches) -> nn.Cell:
    return own_step(SMALL, seed=1)


def served_rows(page: str) -> float:
    return float(page.split(f"\n{SERVED_ROWS} ")[1].split("\n")[0])


def test_steps_are_counted_reported_and_served(
    network: nn.Cell, batches: Batches, tmp_path: Path
) -> None:
    with watched(network, batches, tmp_path, scrape_steps=20) as steps:
        steps.run(2 * REPORT_STEPS + 50)
        # Asked for before step 241, and answered while the steps go on.
        assert 2400 <= served_rows(steps.scraper.page) <= 2500
        steps.check(REPORT_STEPS)
        assert steps.metrics.scores().rows == 100_000 + 2500
        assert 'online_train_auc{scope="window"}' in steps.scraper.page
        with pytest.raises(AssertionError, match="2 reports of 250 steps"):
            steps.check(REPORT_STEPS // 2)


def test_steps_that_were_not_watched_are_noticed(
    network: nn.Cell, batches: Batches, tmp_path: Path
) -> None:
    with watched(network, batches, tmp_path, scrape_steps=20) as steps:
        steps.run(3)
        steps.progress.rows_done += 10
        with pytest.raises(AssertionError, match="30 rows counted, 40 trained"):
            steps.check(REPORT_STEPS)


def test_watching_leaves_the_weights_as_they_are(batches: Batches, tmp_path: Path) -> None:
    check_equal(SMALL, batches, tmp_path)


def test_weights_that_differ_are_noticed(
    batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = itertools.count(1)
    monkeypatch.setattr(
        stage_watching, "own_step", lambda config, seed: own_step(config, next(seeds))
    )
    with pytest.raises(AssertionError, match="wide_"):
        check_equal(SMALL, batches, tmp_path)


def test_unwatched_steps_train_too(batches: Batches) -> None:
    network = own_step(SMALL, seed=3)
    before = network.model.embedding_table.asnumpy().copy()
    unwatched(network, batches).run(2)
    assert (network.model.embedding_table.asnumpy() != before).any()


def test_the_ledger_gives_each_batch_its_labels_again_and_again(batches: Batches) -> None:
    ledger = KnownBatches(batches)
    for number in range(7):
        record = ledger.next_batch()
        np.testing.assert_array_equal(record.labels, batches[number % 3][2].asnumpy().ravel())
        assert (record.rows, record.oov.shape) == (10, (10,))


@pytest.mark.parametrize(
    ("step_seconds", "steps"), [(0.001, 100), (0.015, 50), (0.03, 25), (0.3, 2), (0.6, 1), (5, 1)]
)
def test_scrapes_are_no_more_than_a_second_apart_and_fit_a_round(
    step_seconds: float, steps: int
) -> None:
    assert steps_between_scrapes(step_seconds) == steps
    assert ROUND_STEPS % steps == 0
