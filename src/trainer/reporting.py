"""What a trainer says about itself: a log line and a JSON line every so many steps.

Nothing here can end training: a broker that does not say how far the topic goes leaves the lag
out, and a file that can't be written any more is named once and left alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from typing import Any, Optional

import mindspore as ms
import numpy as np

from src.dictionaries.oov import count_oov
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE
from src.stream.position import Position
from src.trainer.callbacks import TrainingProgress
from src.trainer.checkpoint import Unit
from src.watching.line_file import OutputError
from src.watching.metrics import ProgressiveMetrics, Scores, decode_state, encode_state
from src.watching.prometheus import TrainerNumbers

logger = logging.getLogger(__name__)

STATE_KEY = "progressive_metrics"
MAX_FILE_BYTES = 64 << 20
KEPT_FILES = 3
ASK_AGAIN_SECONDS = 30.0


class JsonLines:
    """A file of JSON lines that is moved aside to ``<path>.1`` … when it has grown large.

    Args:
        path: The file; "" for none.
        max_bytes: How large it may grow.
        kept: How many files moved aside are kept.

    Raises:
        OutputError: It can't be opened.
    """

    def __init__(self, path: str, max_bytes: int = MAX_FILE_BYTES, kept: int = KEPT_FILES) -> None:
        self._path = path
        self._handler: Optional[RotatingFileHandler] = None
        if path:
            try:
                self._handler = _Rotating(
                    path, maxBytes=max_bytes, backupCount=kept, encoding="utf-8"
                )
            except OSError as error:
                raise OutputError(f"can't open {path}: {error.strerror}") from None

    def append(self, fields: Mapping[str, Any]) -> None:
        """Writes a line; a file that can't be written is given up with a warning."""
        if self._handler is None:
            return
        line = json.dumps(fields, allow_nan=False)
        try:
            self._handler.emit(logging.makeLogRecord({"msg": line}))
        except OSError as error:
            logger.warning("can't write %s, going on without it: %s", self._path, error.strerror)
            self.close()

    def close(self) -> None:
        """Closes the file."""
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.close()
            except OSError as error:
                logger.debug("closing %s: %s", self._path, error)


class _Rotating(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Lets the error through; logging's own way prints it and goes on for every line."""
        raise  # noqa: PLE0704 - it is called while an exception is handled


class LagProbe:
    """Asks how many rows of each partition are still ahead.

    Args:
        ends: Where each partition ends, None where that is not known; asked at report time only.
        clock: A monotonic clock, seconds.
    """

    def __init__(
        self,
        ends: Callable[[], Optional[Mapping[int, int]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ends = ends
        self._clock = clock
        self._ask_at = clock()

    def rows_ahead(self, position: Position) -> Optional[dict[int, int]]:
        """Partition → rows behind the position, bad ones among them; None where not known.

        After a broker has not answered it is left alone for a while: asking holds training up.
        """
        if self._clock() < self._ask_at:
            return None
        ends = self._ends()
        if ends is None:
            self._ask_at = self._clock() + ASK_AGAIN_SECONDS
            return None
        offsets = position.offsets
        return {part: max(end - offsets.get(part, 0), 0) for part, end in sorted(ends.items())}


@dataclass(frozen=True)
class Report:
    """What is said at a time.

    Attributes:
        time: When, seconds since 1970.
        session: Of this trainer: a new one after each restart.
        step: Steps since the very first start.
        rows_per_second: Since the report before, pauses for checkpoints included; None where
            there was only one step.
        step_seconds: Mean time of a step since the report before, without waiting for its batch;
            the first step of a trainer, which compiles, is left out here and in the next.
        wait_seconds: Mean time that a step's batch was waited for.
        wide_loss: Mean wide_loss of the steps since the report before.
        deep_loss: Mean deep_loss of those steps.
        life: Scores of all rows since the model's first step.
        window: Scores of the newest rows.
        since_start: Scores of the rows of this trainer.
        oov_rate: Share of categorical fields out of vocabulary since the report before.
        oov_rate_by_column: The same for each of C1..C26.
        lag_rows: Rows of the topic not yet trained on; None where that is not known.
        lag_rows_by_partition: The same by partition.
        lag_seconds: Age of the newest row trained on.
    """

    time: float
    session: int
    step: int
    rows_per_second: Optional[float]
    step_seconds: Optional[float]
    wait_seconds: Optional[float]
    wide_loss: float
    deep_loss: float
    life: Scores
    window: Scores
    since_start: Scores
    oov_rate: float
    oov_rate_by_column: list[float]
    lag_rows: Optional[int]
    lag_rows_by_partition: Optional[Mapping[int, int]]
    lag_seconds: float

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON line; ``rows`` is that of the whole life."""
        scopes = {name: getattr(self, name) for name in ("life", "window", "since_start")}
        return {
            **{name: _rounded(value) for name, value in vars(self).items() if name not in scopes},
            "rows": self.life.rows,
            **{
                name: {key: _rounded(value) for key, value in scores.to_json().items()}
                for name, scores in scopes.items()
            },
        }

    def line(self) -> str:
        """The log line; AUC, log loss and calibration are those of the newest rows."""
        speed = _shown(self.rows_per_second, "{:.0f} rows/s")
        lag = _shown(self.lag_rows, "{} rows")
        return (
            f"step {self.step}: {self.life.rows} rows ({speed}), "
            f"AUC {_shown(self.window.auc, '{:.4f}')}, "
            f"log loss {_shown(self.window.log_loss, '{:.4f}')}, "
            f"calibration {_shown(self.window.calibration, '{:.3f}')}, "
            f"OOV {100 * self.oov_rate:.1f} %, lag {lag} and {self.lag_seconds:.1f} s"
        )


def _mean(total: float, number: int) -> Optional[float]:
    return total / number if number else None


def _shown(value: Optional[float], form: str) -> str:
    return "?" if value is None else form.format(value)


def _rounded(value: Any) -> Any:
    """Floats with as many digits as anyone will read."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) and abs(value) < 1e6 else value


class StepTimer(ms.Callback):  # type: ignore[misc]
    """Tells working from waiting; it must come last among the callbacks that take time."""

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

    It comes behind the ledger and the losses, and before the checkpoint, which saves its state.

    Args:
        progress: Gives step, position, losses and the batch's labels.
        metrics: Counts the scores.
        timer: Times the steps.
        lag: Says how far behind training is.
        report_steps: Steps between two reports; 0 for none.
        output: Takes the reports as JSON lines.
        session: The trainer's session.
        numbers: Are told each step and each report.
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
        numbers: Optional[TrainerNumbers] = None,
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
        self._since: Optional[tuple[float, int]] = None
        self._closed = False

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Reports on the last steps; MindSpore does so when training ends in whatever way."""
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
        self._metrics.add(logit, batch.labels)
        interval = self._sum
        interval.steps += 1
        interval.rows += len(batch.labels)
        interval.oov += count_oov(batch.oov)
        interval.wide_loss += losses[0]
        interval.deep_loss += losses[1]
        step_seconds = time.perf_counter() - self._timer.began
        if self._numbers is not None:
            self._numbers.on_step(len(batch.labels), step_seconds, self._timer.waited)
        if self._since is None:  # the first step compiles: it says nothing about the speed
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

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, for ``restored_metrics``."""
        return {STATE_KEY: encode_state(self._metrics.state())}

    def _make_report(self) -> Report:
        progress, interval = self._progress, self._sum
        assert progress.batch is not None
        lag = self._lag.rows_ahead(progress.position)
        by_column = interval.oov / interval.rows
        return Report(
            time=time.time(),
            session=self._session,
            step=progress.step,
            rows_per_second=self._rows_per_second(),
            step_seconds=_mean(interval.step_seconds, interval.timed_steps),
            wait_seconds=_mean(interval.wait_seconds, interval.timed_steps),
            wide_loss=interval.wide_loss / interval.steps,
            deep_loss=interval.deep_loss / interval.steps,
            life=self._metrics.life().scores(),
            window=self._metrics.window().scores(),
            since_start=self._metrics.since_start().scores(),
            oov_rate=float(by_column.mean()),
            oov_rate_by_column=by_column.tolist(),
            lag_rows=None if lag is None else sum(lag.values()),
            lag_rows_by_partition=lag,
            lag_seconds=max(time.time() - progress.batch.newest_timestamp / 1000, 0.0),
        )

    def _rows_per_second(self) -> Optional[float]:
        if self._since is None:
            return None
        seconds = time.monotonic() - self._since[0]
        rows = self._progress.rows_done - self._since[1]
        return rows / seconds if rows and seconds > 0 else None


def all_rows_line(scores: Scores) -> str:
    """The last words of a trainer: how well it has scored all rows before it trained on them."""
    return (
        f"all {scores.rows} rows: AUC {_shown(scores.auc, '{:.4f}')}, "
        f"log loss {_shown(scores.log_loss, '{:.4f}')}, "
        f"calibration {_shown(scores.calibration, '{:.3f}')}"
    )


def restored_metrics(unit: Optional[Unit], window_rows: int) -> ProgressiveMetrics:
    """The metrics of a checkpoint; new ones where it has none or none that can be read."""
    text = unit.extra.get(STATE_KEY) if unit is not None else None
    if text is None:
        return ProgressiveMetrics(window_rows)
    try:
        return ProgressiveMetrics.from_state(decode_state(text), window_rows)
    except ValueError as error:
        logger.warning("the checkpoint's metrics are left out: %s", error)
        return ProgressiveMetrics(window_rows)
