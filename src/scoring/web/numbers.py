"""Numbers for Prometheus; what is not known yet is absent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from src.scoring.follower import Follower
from src.scoring.requests.scores import Scores, age_ms

_BUCKETS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()


class ServerNumbers:
    """Counts requests and shows what serves.

    Args:
        follower: Knows what serves.
        waiting: How many requests are scored or wait for it.
        clock: Seconds since 1970.

    Attributes:
        requests: Scoring requests answered so far.
        failures: Those of them that were answered with a status of 500 or more.
        rows: Rows scored so far.
    """

    def __init__(
        self,
        follower: Follower,
        waiting: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.requests = self.failures = self.rows = 0
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_ModelNumbers(follower, waiting, clock))
        self._requests = Counter(
            "online_server_requests", "Requests", ("dialect", "code"), registry=self._registry
        )
        self._seconds = Histogram(
            "online_server_request_seconds",
            "From a scoring request's headers to its answer",
            ("dialect",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._rows = Counter("online_server_rows", "Rows scored", registry=self._registry)
        self._bad_rows = Counter("online_server_bad_rows", "Rows refused", registry=self._registry)

    def on_answered(self, dialect: str, status: int, seconds: float | None) -> None:
        """Counts a request.

        Args:
            dialect: ``v1``, ``v2`` or ``other``.
            status: Of the answer.
            seconds: How long it took; None where nothing was to be scored.
        """
        self._requests.labels(dialect, str(status)).inc()
        if seconds is not None:
            self.requests += 1
            self.failures += status >= 500
            self._seconds.labels(dialect).observe(seconds)

    def on_scored(self, scores: Scores) -> None:
        """Counts rows."""
        good = len(scores.logit) - len(scores.errors)
        self.rows += good
        self._rows.inc(good)
        self._bad_rows.inc(len(scores.errors))

    def scraped(self) -> bytes:
        """All numbers, as Prometheus reads them."""
        return generate_latest(self._registry)


class _ModelNumbers:
    """What is looked up when Prometheus asks."""

    def __init__(
        self, follower: Follower, waiting: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        self._follower, self._waiting, self._clock = follower, waiting, clock

    def collect(self) -> Iterator[Metric]:
        """The numbers; those of the model only if one serves."""
        follower = self._follower
        yield CounterMetricFamily(
            "online_server_swaps", "Versions that began to serve", value=follower.swaps
        )
        yield CounterMetricFamily(
            "online_server_failed_loads", "Times a version failed to load", value=follower.failures
        )
        yield GaugeMetricFamily(
            "online_server_newest_version_is_broken",
            "1 if the newest version can't serve",
            value=float(bool(follower.fault)),
        )
        yield GaugeMetricFamily(
            "online_server_waiting_requests",
            "Requests that are scored or wait for it",
            value=self._waiting(),
        )
        manifest = follower.manifest
        if manifest is None:
            return
        yield GaugeMetricFamily(
            "online_server_model_version", "Steps trained", value=manifest.version
        )
        age = age_ms(manifest, self._clock())
        if age is None:
            return
        yield GaugeMetricFamily(
            "online_server_model_age_seconds", "Age of the newest row learnt", value=age / 1000
        )
        yield GaugeMetricFamily(
            "online_server_model_trained_until_timestamp_seconds",
            "Kafka's time of the newest row learnt",
            value=manifest.trained_until_ms / 1000,
        )
