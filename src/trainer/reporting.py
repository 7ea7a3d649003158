"""Reports of a trainer: a log line and a JSON line every so many steps.

Nothing here can end training. If the broker does not return the end of the topic, the lag is left
out. A file that can't be written any more is named once and then left alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
import numpy as np

from src.checkpoints.unit import Unit
from src.dictionaries.oov import count_oov
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE
from src.stream.position import Position
from src.trainer.callbacks import TrainingProgress
from src.watching.json_lines import JsonLines
from src.watching.metrics import ProgressiveMetrics, Scores, decode_state, encode_state
from src.watching.prometheus import TrainerNumbers
from src.watching.reliability import reliability
from src.watching.report import Report, all_rows_line, mean

logger = logging.getLogger(__name__)

STATE_KEY = "progressive_metrics"
ASK_AGAIN_SECONDS = 30.0


class LagProbe:
    """Asks how many rows of each partition are still ahead.

    Args:
        ends: Returns where each partition ends, None where not known; called at reports only.
        covering: Returns a position that also covers offsets without rows after it.
        clock: A monotonic clock, seconds.
    """

    def __init__(
        self,
        ends: Callable[[], Mapping[int, int] | None],
        covering: Callable[[Position], Position] = lambda position: position,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ends = ends
        self._covering = covering
        self._clock = clock
        self._ask_at = clock()

    def rows_ahead(self, position: Position) -> dict[int, int] | None:
        """Partition → rows after the position, bad ones included; None where not known.

        A broker that did not answer is left alone for a while, as asking delays training.
        """
        if self._clock() < self._ask_at:
            return None
        ends = self._ends()
        if ends is None:
            self._ask_at = self._clock() + ASK_AGAIN_SECONDS
            return None
        offsets = self._covering(position).reached
        return {part: max(end - offsets.get(part, 0), 0) for part, end in sorted(ends.items())}


class StepTimer(ms.Callback):  # type: ignore[misc]
    """Times work and waiting apart; it must come last among the callbacks that take time."""

    def __init__(self) -> None:
        super().__init__()
        self.began = self._ended = time.perf_counter()
        self.waited = 0.0

    def on_train_begin(self, run_context: Any) -> None:
        """Waiting for the first batch begins."""
        self._ended = time.perf_counter()

    def on_train_step_begin(self, run_context: Any) -> None:
        """The step's batch is there."""
        self.began = time.perf_counter()
        self.waited = self.began - self._ended

    def on_train_step_end(self, run_context: Any) -> None:
        """Waiting for the next batch begins."""
        self._ended = time.perf_counter()


@dataclass
class _Interval:
    """What has been summed up since a report."""

    steps: int = 0
    timed_steps: int = 0
    rows: int = 0
    step_seconds: float = 0.0
    wait_seconds: float = 0.0
    wide_loss: float = 0.0
    deep_loss: float = 0.0
    oov: Array = field(default_factory=lambda: np.zeros(CATEGORICAL_SIZE, dtype=np.int64))


class MetricsCallBack(ms.Callback):  # type: ignore[misc]
    """Counts each step's scores and reports every so many steps.

    It comes after the ledger and the losses, and before the checkpoint, which saves its state.

    Args:
        progress: Holds step, position, losses and the batch's labels.
        metrics: Counts the scores.
        timer: Times the steps.
        lag: Returns how many rows are not trained yet.
        report_steps: Steps between two reports; 0 for none.
        output: Takes the reports as JSON lines.
        session: The trainer's session.
        numbers: Receive each step and each report, for Prometheus.
    """

    def __init__(
        self,
        progress: TrainingProgress,
        metrics: ProgressiveMetrics,
        timer: StepTimer,
        lag: LagProbe,
        report_steps: int,
        output: JsonLines,
        session: int,
        numbers: TrainerNumbers | None = None,
    ) -> None:
        super().__init__()
        self._progress = progress
        self._metrics = metrics
        self._timer = timer
        self._lag = lag
        self._report_steps = report_steps
        self._output = output
        self._session = session
        self._numbers = numbers
        self._sum = _Interval()
        self._since: tuple[float, int] | None = None
        self._closed = False

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Reports on the last steps; MindSpore calls this however training ends."""
        self.report_now()
        self._output.close()
        if not self._closed:
            self._closed = True
            logger.info("%s", all_rows_line(self.scores()))

    def on_train_step_end(self, run_context: Any) -> None:
        """Counts the step, and reports when it is time."""
        batch, losses = self._progress.batch, self._progress.last_losses
        assert batch is not None and losses is not None, "the ledger and the losses come first"
        logit = run_context.original_args().net_outputs[2].asnumpy()
        self._metrics.add(batch.of_rows(logit), batch.labels)
        interval = self._sum
        interval.steps += 1
        interval.rows += len(batch.labels)
        interval.oov += count_oov(batch.oov)
        interval.wide_loss += losses[0]
        interval.deep_loss += losses[1]
        step_seconds = time.perf_counter() - self._timer.began
        if self._numbers is not None:
            self._numbers.on_step(len(batch.labels), step_seconds, self._timer.waited)
        if self._since is None:  # the first step compiles: its time is no measure of the speed
            self._since = (time.monotonic(), self._progress.rows_done)
        else:
            interval.timed_steps += 1
            interval.step_seconds += step_seconds
            interval.wait_seconds += self._timer.waited
        if self._report_steps and self._progress.step % self._report_steps == 0:
            self.report_now()

    def report_now(self) -> None:
        """Reports on the steps since the last report, if there were any."""
        if not self._report_steps or not self._sum.steps:
            return
        report = self._make_report()
        self._sum = _Interval()
        self._since = (time.monotonic(), self._progress.rows_done)
        logger.info("%s", report.line())
        self._output.append(report.to_json())
        if self._numbers is not None:
            self._numbers.on_report(report)

    def scores(self) -> Scores:
        """The scores of all rows since the model's first step."""
        return self._metrics.life().scores()

    def newest(self) -> tuple[Array, Array]:
        """The newest rows, see ``ProgressiveMetrics.newest``."""
        return self._metrics.newest()

    def state(self) -> Callable[[], dict[str, Any]]:
        """Copies what a checkpoint keeps; the result encodes it for ``restored_metrics``.

        Encoding takes far longer than copying, and any thread may do it.
        """
        state = self._metrics.copied_state()
        return lambda: {STATE_KEY: encode_state(state())}

    def _make_report(self) -> Report:
        progress, interval = self._progress, self._sum
        assert progress.batch is not None
        lag = self._lag.rows_ahead(progress.position)
        by_column = interval.oov / interval.rows
        window = self._metrics.window()
        return Report(
            time=time.time(),
            session=self._session,
            step=progress.step,
            rows_per_second=self._rows_per_second(),
            step_seconds=mean(interval.step_seconds, interval.timed_steps),
            wait_seconds=mean(interval.wait_seconds, interval.timed_steps),
            wide_loss=interval.wide_loss / interval.steps,
            deep_loss=interval.deep_loss / interval.steps,
            life=self._metrics.life().scores(),
            window=window.scores(),
            since_start=self._metrics.since_start().scores(),
            reliability=reliability(window),
            oov_rate=float(by_column.mean()),
            oov_rate_by_column=by_column.tolist(),
            lag_rows=None if lag is None else sum(lag.values()),
            lag_rows_by_partition=lag,
            lag_seconds=age_seconds(progress.batch.newest_timestamp),
        )

    def _rows_per_second(self) -> float | None:
        if self._since is None:
            return None
        seconds = time.monotonic() - self._since[0]
        rows = self._progress.rows_done - self._since[1]
        return rows / seconds if rows and seconds > 0 else None


def age_seconds(timestamp: int) -> float | None:
    """How long ago a message was sent; None where its producer gave no time, 0 in the future.

    Args:
        timestamp: ms since 1970; negative if unknown.
    """
    return None if timestamp < 0 else max(time.time() - timestamp / 1000, 0.0)


def restored_metrics(unit: Unit | None, window_rows: int) -> ProgressiveMetrics:
    """The metrics of a checkpoint; new ones where it has none or none that can be read."""
    text = unit.extra.get(STATE_KEY) if unit is not None else None
    if text is None:
        return ProgressiveMetrics(window_rows)
    try:
        return ProgressiveMetrics.from_state(decode_state(text), window_rows)
    except ValueError as error:
        logger.warning("the checkpoint's metrics are left out: %s", error)
        return ProgressiveMetrics(window_rows)
