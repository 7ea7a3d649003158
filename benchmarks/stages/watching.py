"""``watching``: a step with all metrics (*ours*), against the same step without (*documented*).

Both ways train the same network, in alternate steps, and call the trainer's callbacks as
``RecModel`` does. A round is a hundred steps of each way. In it the watched steps make one report
and save their state for one checkpoint, as by default. Other work on the machine prolongs a step
more than watching does. So for each place in the round the median over all rounds counts. What
happens once per round happens at the same place in each round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn
from prometheus_client import CollectorRegistry, ProcessCollector

from benchmarks.documented.step import DOCUMENTED_CONFIG, own_step, random_batch
from benchmarks.processes.scraper import Scraper
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.stages.train_step import EQUAL_STEPS, SEED, Batches
from benchmarks.timing import Way, alternate, seconds_of, typical_mean
from examples.services.common import HOST
from src.config import load_config
from src.model.model_config import ModelConfig
from src.model.workers import bind_workers
from src.process.ports import free_port
from src.stream.position import Position
from src.trainer.callbacks import LedgerCallBack, LossCallBack, TrainingProgress
from src.trainer.dataset import BatchRecord
from src.trainer.reporting import LagProbe, MetricsCallBack, StepTimer
from src.watching.json_lines import JsonLines
from src.watching.metrics import ProgressiveMetrics
from src.watching.prometheus import TrainerNumbers, serving

ROUND_STEPS = 100
SCRAPE_STEPS = (100, 50, 25, 20, 10, 5, 4, 2, 1)  # a round is a multiple of each
SCRAPE_SECONDS = 1.0
TIMED_STEPS = 10
FIELDS_OOV = np.uint32(0b10110)  # which fields they are does not matter
SERVED_ROWS = "online_train_rows_total"


class KnownBatches:
    """The ledger of batches that repeat."""

    def __init__(self, batches: Batches) -> None:
        rows = len(batches[0][2])
        oov = np.full(rows, FIELDS_OOV, dtype=np.uint32)
        records = [
            BatchRecord(Position({0: 0}), [], rows, 1, label.asnumpy().reshape(-1), oov, 0)
            for _, _, label in batches
        ]
        self._coming = itertools.cycle(records)

    def next_batch(self) -> BatchRecord:
        """The record of the next batch."""
        return next(self._coming)


class Loop:
    """Trains a network on batches that repeat, as ``RecModel`` does.

    Args:
        network: The training step.
        batches: The batches to train on.
        callbacks: Called before and after each step.
    """

    def __init__(
        self, network: nn.Cell, batches: Batches, callbacks: Sequence[ms.Callback]
    ) -> None:
        self._network = network
        self._coming = itertools.cycle(batches)
        self._callbacks = callbacks
        self._arguments = SimpleNamespace(net_outputs=())
        self._context = SimpleNamespace(original_args=lambda: self._arguments)

    def run(self, steps: int) -> None:
        """Trains some steps."""
        for batch in itertools.islice(self._coming, steps):
            for callback in self._callbacks:
                callback.on_train_step_begin(self._context)
            self._arguments.net_outputs = self._network(*batch)
            for callback in self._callbacks:
                callback.on_train_step_end(self._context)


class ReadState(ms.Callback):  # type: ignore[misc]
    """Reads the metrics' state for a checkpoint, every ``steps`` steps."""

    def __init__(self, progress: TrainingProgress, metrics: MetricsCallBack, steps: int) -> None:
        super().__init__()
        self._progress, self._metrics, self._steps = progress, metrics, steps

    def on_train_step_end(self, run_context: Any) -> None:
        """Reads the state when it is due."""
        if self._progress.step % self._steps == 0:
            self._metrics.state()()  # encoding it, in whichever thread, is part of the cost


class FetchPage(ms.Callback):  # type: ignore[misc]
    """Fetches the page of metrics every ``steps`` steps."""

    def __init__(self, progress: TrainingProgress, scraper: Scraper, steps: int) -> None:
        super().__init__()
        self._progress, self._scraper, self._steps = progress, scraper, steps

    def on_train_step_begin(self, run_context: Any) -> None:
        """Starts a fetch when it is due; it goes on while the step runs."""
        if self._progress.step % self._steps == 0:
            self._scraper.ask()


def steps_between_scrapes(step_seconds: float) -> int:
    """The largest divisor of a round whose steps take at most a second."""
    fitting = (steps for steps in SCRAPE_STEPS if steps * step_seconds <= SCRAPE_SECONDS)
    return next(fitting, 1)


def unwatched(network: nn.Cell, batches: Batches) -> Loop:
    """Steps without metrics: their batch is looked up, and their losses are read."""
    progress = TrainingProgress(0, Position({0: 0}))
    return Loop(network, batches, _always(progress, batches))


def _always(progress: TrainingProgress, batches: Batches) -> list[ms.Callback]:
    """The callbacks that the trainer always calls after a step."""
    return [
        LedgerCallBack(progress, KnownBatches(batches), ""),
        LossCallBack(progress, ""),
    ]


@dataclass
class Watched:
    """Steps with all metrics of a trainer.

    Attributes:
        loop: Runs the steps.
        progress: The steps and rows so far.
        metrics: The scores.
        scraper: Fetches the page of metrics.
        path: The file of JSON lines.
        rows_before: Rows in the metrics before the first step.
    """

    loop: Loop
    progress: TrainingProgress
    metrics: MetricsCallBack
    scraper: Scraper
    path: Path
    rows_before: int

    def run(self, steps: int) -> None:
        """Trains some steps, and waits for a page that is being fetched."""
        self.loop.run(steps)
        self.scraper.finish()

    def check(self, report_steps: int) -> None:
        """Fails unless the steps were counted, reported and served.

        Raises:
            AssertionError: They were not.
        """
        rows, steps = self.progress.rows_done, self.progress.steps_done
        counted = self.metrics.scores().rows - self.rows_before
        if counted != rows:
            raise AssertionError(f"{counted} rows counted, {rows} trained")
        lines = len(self.path.read_text().splitlines())
        if lines != steps // report_steps:
            raise AssertionError(f"{lines} reports of {steps} steps")
        self.scraper.ask()
        self.scraper.finish()
        if f"{SERVED_ROWS} {float(rows)}" not in self.scraper.page.splitlines():
            raise AssertionError(f"{SERVED_ROWS} is not {rows}: {self.scraper.page[:2000]}")


@contextlib.contextmanager
def watched(
    network: nn.Cell, batches: Batches, folder: Path, scrape_steps: int
) -> Iterator[Watched]:
    """Watched steps, with the trainer's defaults and a window of newest rows that is full."""
    config = load_config([])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    path.unlink(missing_ok=True)
    registry, port = CollectorRegistry(), free_port()
    ProcessCollector(registry=registry)
    progress, timer = TrainingProgress(0, Position({0: 0})), StepTimer()
    output = JsonLines(str(path))
    metrics = MetricsCallBack(
        progress,
        _full_metrics(config.metrics_window_rows),
        timer,
        lag=LagProbe(lambda: {0: 0}),
        report_steps=config.report_steps,
        output=output,
        session=1,
        numbers=TrainerNumbers(registry),
    )
    with serving(registry, port, HOST), Scraper(HOST, port) as scraper:
        callbacks = [
            *_always(progress, batches),
            metrics,
            ReadState(progress, metrics, config.save_checkpoint_steps),
            timer,
            FetchPage(progress, scraper, scrape_steps),
        ]
        loop = Loop(network, batches, callbacks)
        yield Watched(loop, progress, metrics, scraper, path, metrics.scores().rows)
    output.close()


def _full_metrics(window_rows: int) -> ProgressiveMetrics:
    random = np.random.default_rng(SEED)
    logit = random.normal(-1, 1, window_rows).astype(np.float32)
    metrics = ProgressiveMetrics(window_rows)
    metrics.add(logit, random.random(window_rows) < 1 / (1 + np.exp(-logit)))
    return metrics


def run(settings: Settings) -> list[Result]:
    """Measures a step of the default model, and one with ``sparse``, ms."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    config = dataclasses.replace(DOCUMENTED_CONFIG, batch_size=settings.batches[0])
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # the loss lines
        dense = _measure(config, settings, "watching")
        sparse = _measure(dataclasses.replace(config, sparse=True), settings, "watching, sparse")
    measures = {
        "sparse_ratio": sparse["without"] / sparse["with"],
        "sparse_with": sparse["with"],
    }
    return [Result("watching", dense["without"], dense["with"], "ms", measures=measures)]


def _measure(config: ModelConfig, settings: Settings, title: str) -> dict[str, float]:
    random = np.random.default_rng(SEED)
    batches = [random_batch(config, random) for _ in range(EQUAL_STEPS)]
    folder = settings.work_dir / "watching"
    check_equal(config, batches, folder)
    network = own_step(config, SEED)
    bare = unwatched(network, batches)
    bare.run(1)  # it compiles
    bind_workers()  # as the trainer does
    step_seconds = seconds_of(lambda: bare.run(TIMED_STEPS)) / TIMED_STEPS
    with watched(network, batches, folder, steps_between_scrapes(step_seconds)) as observed:
        ways = {"without": _timed_step(bare), "with": _timed_step(observed)}
        times = alternate(ways, settings.repeats * ROUND_STEPS, title, warm_up=False)
        observed.check(load_config([]).report_steps)
    return {name: typical_mean(values, ROUND_STEPS) for name, values in times.items()}


def check_equal(config: ModelConfig, batches: Batches, folder: Path) -> None:
    """Fails unless watched and unwatched steps give the same weights, bit by bit."""
    bare, observed = own_step(config, SEED), own_step(config, SEED)
    unwatched(bare, batches).run(len(batches))
    with watched(observed, batches, folder, scrape_steps=5) as steps:
        steps.run(len(batches))
    for one, other in zip(bare.get_parameters(), observed.get_parameters()):
        np.testing.assert_array_equal(other.asnumpy(), one.asnumpy(), err_msg=one.name)


def _timed_step(steps: Loop | Watched) -> Way:
    """One step, milliseconds."""
    return lambda: 1e3 * seconds_of(lambda: steps.run(1))
