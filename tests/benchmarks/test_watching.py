"""Watched steps are really watched, and watching that would change them is noticed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from prometheus_client import CollectorRegistry, Gauge

from benchmarks import stage_watching
from benchmarks.documented_step import DOCUMENTED_CONFIG, own_step, random_batch
from benchmarks.scraper import Scraper
from benchmarks.stage_train_step import Batches
from benchmarks.stage_watching import (
    AskForPage,
    KnownBatches,
    check_equal,
    means,
    unwatched,
    watched,
)
from examples.local_services import HOST
from src.exposition import serving
from src.ports import free_port

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


def test_steps_are_counted_reported_and_served(
    network: nn.Cell, batches: Batches, tmp_path: Path
) -> None:
    with watched(network, batches, tmp_path) as steps:
        steps.run(2 * REPORT_STEPS + 50)
        steps.check(REPORT_STEPS)
        assert steps.metrics.scores().rows == 100_000 + 2500
        assert 'online_train_auc{scope="window"}' in steps.scraper.page
        with pytest.raises(AssertionError, match="2 reports of 250 steps"):
            steps.check(REPORT_STEPS // 2)


def test_steps_that_were_not_watched_are_noticed(
    network: nn.Cell, batches: Batches, tmp_path: Path
) -> None:
    with watched(network, batches, tmp_path) as steps:
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


def test_rounds_are_means_of_turns_that_follow_one_another() -> None:
    assert means([1, 2, 3, 10, 20, 30], 3) == [2, 20]


class CountedAsks:
    """Stands for a scraper where only the moments count."""

    def __init__(self) -> None:
        self.asked = 0

    def ask(self) -> None:
        self.asked += 1


def test_the_page_is_asked_for_once_a_second_of_the_steps_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scraper = CountedAsks()
    callback = AskForPage(cast(Scraper, scraper))
    now = [0.0]
    monkeypatch.setattr("benchmarks.stage_watching.time.perf_counter", lambda: now[0])
    asked = []
    for _ in range(9):
        callback.on_train_step_begin(None)
        now[0] += 0.25
        callback.on_train_step_end(None)
        now[0] += 100  # the other way's turn
        asked.append(scraper.asked)
    assert asked == [0, 0, 0, 0, 1, 1, 1, 1, 2]


class TestScraper:
    @pytest.fixture
    def served(self) -> Iterator[tuple[Gauge, Scraper]]:
        registry, port = CollectorRegistry(), free_port()
        gauge = Gauge("answer", "A number", registry=registry)
        with serving(registry, port, HOST), Scraper(HOST, port) as scraper:
            yield gauge, scraper

    def test_fetches_the_numbers_of_the_moment(self, served: tuple[Gauge, Scraper]) -> None:
        number, scraper = served
        assert scraper.page == ""
        for value in (42, 43):
            number.set(value)
            scraper.ask()
            scraper.finish()
            assert f"answer {value}.0" in scraper.page.splitlines()

    def test_says_so_when_nobody_serves_them(self, capfd: pytest.CaptureFixture[str]) -> None:
        with Scraper(HOST, free_port()) as scraper:
            scraper.ask()
            with pytest.raises(RuntimeError, match="the numbers can't be fetched"):
                scraper.finish()
