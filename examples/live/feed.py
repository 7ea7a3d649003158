"""Sends rows to the topic at a steady rate, with a probe among them now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from examples.demo.plan import DemoError
from examples.live.probes import Probe, Probes
from src.process.stop import StopFlag

logger = logging.getLogger(__name__)

PARTITIONS = 2
MOST_SECONDS_BEHIND = 0.1


class SteadyFeed:
    """Rows of a stream, each when it is due.

    A feed that falls behind does not catch up at once: a burst would be no steady rate.

    Args:
        bootstrap_servers: host:port,...
        topic: The topic.
        lines: The rows.
        rows_per_second: The rate, probes included.
        probe_every: Every how many rows one is a probe; 0 for never.
        probes: Makes the probes.

    Attributes:
        sent: Rows sent.
        failed: Rows that the broker did not take.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        lines: Iterator[bytes],
        rows_per_second: float,
        probe_every: int,
        probes: Probes,
    ) -> None:
        self.sent = 0
        self.failed = 0
        self._servers = bootstrap_servers
        self._topic = topic
        self._lines = lines
        self._interval = 1.0 / rows_per_second
        self._probe_every = probe_every
        self._probes = probes

    def run(self, flag: StopFlag, rows: int | None = None, has_probes: bool = True) -> None:
        """Sends rows.

        Args:
            flag: Ends it.
            rows: How many; None for all there are.
            has_probes: Whether there are probes among them.

        Raises:
            DemoError: No broker answers.
        """
        end = None if rows is None else self.sent + rows
        every = self._probe_every if has_probes else 0
        try:
            producer = KafkaProducer(bootstrap_servers=self._servers, acks="all", linger_ms=2)
        except KafkaError as error:
            raise DemoError(f"no broker answers: {error}") from None
        try:
            due = time.monotonic()
            while not flag.is_set() and self.sent != end:
                due = max(due + self._interval, time.monotonic() - MOST_SECONDS_BEHIND)
                flag.wait(max(due - time.monotonic(), 0.0))
                if not self._send_next(producer, every):
                    return
        finally:
            producer.flush(10)
            producer.close(timeout=5)

    def _send_next(self, producer: Any, probe_every: int) -> bool:
        """Sends a row; returns False where there is none left."""
        probe: Probe | None = None
        if probe_every and self.sent % probe_every == probe_every - 1:
            probe = self._probes.new(time.time())
            line = probe.line.encode()
        else:
            found = next(self._lines, None)
            if found is None:
                return False
            line = found
        key, partition = str(self.sent).encode(), self.sent % PARTITIONS
        self.sent += 1
        try:
            answer = producer.send(self._topic, line, key, partition=partition)
        except KafkaError as error:
            self._not_taken(error)
            return True
        answer.add_errback(self._not_taken)
        if probe is not None:
            answer.add_callback(self._acknowledged, probe)
        return True

    def _acknowledged(self, probe: Probe, taken: Any) -> None:
        self._probes.acknowledged(probe, taken.partition, taken.offset)

    def _not_taken(self, error: BaseException) -> None:
        self.failed += 1
        logger.warning("the broker did not take a row: %s", error)
