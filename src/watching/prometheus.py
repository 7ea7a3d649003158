"""Numbers for Prometheus, of the consumer and of the trainer; off unless a port is configured.

Names follow Prometheus' conventions: base units, and ``_total`` for counters. A scrape computes
nothing: it returns the values that were set last.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from src.process.ports import listener_of
from src.rows.criteo import CATEGORICAL_COLUMNS
from src.stream.position import PartitionLag

logger = logging.getLogger(__name__)

UPDATE_SECONDS = 1.0
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10)


class MetricsServerError(RuntimeError):
    """The metrics can't be served; one line says why."""


@contextmanager
def serving(registry: CollectorRegistry, port: int, host: str) -> Iterator[None]:
    """Serves a registry's numbers over HTTP while the block runs; port 0 serves nothing.

    Raises:
        MetricsServerError: The port is taken, or the host is no address of this machine.
    """
    if not port:
        yield
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = _reason(error, port)
        raise MetricsServerError(f"can't serve metrics at {host}:{port}: {reason}") from None
    logger.info("metrics at http://%s:%d/metrics", host, port)
    try:
        yield
    finally:
        _stop(server, thread)


def _reason(error: Exception, port: int) -> str:
    """Why an address can't be served, and what to do."""
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return "metrics_host is not the name of a host"
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        user = listener_of(port) or "another program"
        return f"the port is used by {user}; give this script another --metrics_port"
    if number == errno.EACCES:
        return "ports below 1024 are root's; choose another --metrics_port"
    if number == errno.EADDRNOTAVAIL:
        return "metrics_host is no address of this machine"
    return " ".join(str(error).split())


def _stop(server: Any, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()


class _LateGauge:
    """A gauge without labels that is absent while it is not known: 0 would be a wrong value."""

    def __init__(self, name: str, text: str, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._make = partial(Gauge, name, text, registry=registry)
        self._gauge: Gauge | None = None

    def set(self, value: float | None) -> None:
        if value is None:
            if self._gauge is not None:
                self._registry.unregister(self._gauge)
            self._gauge = None
            return
        if self._gauge is None:
            self._gauge = self._make()
        self._gauge.set(value)


class TrainerNumbers:
    """The numbers of a trainer.

    Args:
        registry: Where its numbers are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"online_train_{name}", text, labels, registry=registry)

        def late_gauge(name: str, text: str) -> _LateGauge:
            return _LateGauge(f"online_train_{name}", text, registry)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"online_train_{name}", text, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"online_train_{name}", text, registry=registry, buckets=_BUCKETS)

        self._rows = counter("rows", "Rows trained by this process")
        self._batches = counter("batches", "Batches trained by this process")
        self._step_time = histogram("step_duration_seconds", "Time of a step without waiting")
        self._wait_time = histogram("batch_wait_seconds", "Time spent waiting for a batch")
        self._step = late_gauge("step", "Steps since the first start")
        self._loss = gauge("loss", "Mean loss since the last report", "kind")
        self._auc = gauge("auc", "Area under the ROC curve of scores before training", "scope")
        self._log_loss = gauge("log_loss", "Mean cross-entropy in nats before training", "scope")
        self._calibration = gauge("calibration_ratio", "Predicted clicks over clicks", "scope")
        self._oov = gauge("oov_ratio", "Share of rows out of vocabulary", "column")
        self._lag_rows = gauge("lag_rows", "Rows not yet trained on", "partition")
        self._lag_seconds = late_gauge("lag_seconds", "Age of the newest row trained on")
        self._saved_at = late_gauge("checkpoint_timestamp_seconds", "Time of the last checkpoint")
        self._saved_offset = gauge("checkpoint_offset", "Next offset to train", "partition")

    def on_step(self, rows: int, step_seconds: float, wait_seconds: float) -> None:
        """Counts a step."""
        self._rows.inc(rows)
        self._batches.inc()
        self._step_time.observe(step_seconds)
        self._wait_time.observe(wait_seconds)

    def on_report(self, report: Any) -> None:
        """Shows a ``reporting.Report``; a value that is not known is absent."""
        self._step.set(report.step)
        _set(self._loss, "wide", report.wide_loss)
        _set(self._loss, "deep", report.deep_loss)
        for scope in ("life", "window", "since_start"):
            scores = getattr(report, scope)
            _set(self._auc, scope, scores.auc)
            _set(self._log_loss, scope, scores.log_loss)
            _set(self._calibration, scope, scores.calibration)
        for column, rate in zip(CATEGORICAL_COLUMNS, report.oov_rate_by_column):
            self._oov.labels(column).set(rate)
        self._lag_seconds.set(report.lag_seconds)
        if report.lag_rows_by_partition is None:
            self._lag_rows.clear()  # what was known at the report before is not known now
        for partition, rows in (report.lag_rows_by_partition or {}).items():
            self._lag_rows.labels(str(partition)).set(rows)

    def on_saved(self, offsets: Mapping[int, int]) -> None:
        """Shows the position of a checkpoint that has become durable."""
        self._saved_at.set(time.time())
        for partition, offset in offsets.items():
            self._saved_offset.labels(str(partition)).set(offset)


def _set(gauge: Gauge, label: str, value: float | None) -> None:
    """Shows a value, or nothing where it is not known: alerts take 0 for one, and graphs NaN."""
    if value is not None and math.isfinite(value):
        gauge.labels(label).set(value)
    else:
        with contextlib.suppress(KeyError):
            gauge.remove(label)


class ConsumerNumbers:
    """The numbers of a consumer, updated once a second from its own loop.

    Args:
        registry: Where its numbers are registered.
        counts: Has windows, rows and bad_rows, as ``ConsumerCounts``.
        lag: Returns the lag by partition.
        depth: Returns the windows that wait in each shard's queue; None if that is not known.
        clock: A monotonic clock, seconds.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        counts: Any,
        lag: Callable[[], Mapping[int, PartitionLag]],
        depth: Callable[[], list[int] | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts, self._lag, self._depth, self._clock = counts, lag, depth, clock
        self._totals = {
            name: Counter(f"online_consumer_{name}", text, registry=registry)
            for name, text in (
                ("windows", "Windows sent"),
                ("rows", "Rows sent"),
                ("bad_rows", "Messages left out because they are not rows"),
            )
        }
        self._seen = dict.fromkeys(self._totals, 0)
        self._lag_rows, self._lag_seconds, self._queued = (
            Gauge(f"online_consumer_{name}", text, (label,), registry=registry)
            for name, text, label in (
                ("lag_rows", "Rows not yet sent", "partition"),
                ("lag_seconds", "Age of the oldest row waiting here", "partition"),
                ("channel_windows", "Windows waiting in the channel", "shard"),
            )
        )
        self._updated_at = clock() - UPDATE_SECONDS

    def update(self) -> None:
        """Shows the present values, at most once a second."""
        now = self._clock()
        if now - self._updated_at < UPDATE_SECONDS:
            return
        self._updated_at = now
        for name, total in self._totals.items():
            count = getattr(self._counts, name)
            total.inc(count - self._seen[name])
            self._seen[name] = count
        for partition, lag in self._lag().items():
            self._lag_rows.labels(str(partition)).set(lag.rows)
            _set(self._lag_seconds, str(partition), lag.seconds)
        for shard, windows in enumerate(self._depth() or []):
            self._queued.labels(str(shard)).set(windows)
