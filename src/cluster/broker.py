"""The connection to the broker: it waits for a broker that is away, but not for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Callable, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
)

from src.cluster.access import AccessError, Needs, check_access, unreachable
from src.cluster.broker_list import ClusterConfigError
from src.cluster.settings import ClientSettings

logger = logging.getLogger(__name__)

MAX_POLL_ROWS = 10_000
CONNECT_SECONDS = 10.0
REQUEST_MS = 5_000
QUICK_REQUEST_MS = 1_000
RETRY_SECONDS = 0.5
PROBE_SECONDS = 1.0
FETCH_BYTES = 8 << 10
"""Where few rows come, the broker waits until it has so many bytes, or for `FETCH_WAIT_SECONDS`. A
fetch of one row costs as much as one of a thousand."""
FETCH_WAIT_SECONDS = 0.1  # a request for offsets queues up after a fetch at the stream's end

REFUSALS = (AuthorizationError, SaslAuthenticationFailedError)  # no wait mends these

T = TypeVar("T")


class SourceError(RuntimeError):
    """The broker, topic or wanted offset is not there; one line says which."""


def told(error: KafkaError) -> str:
    """What an error of kafka-python's says; its time-outs may say nothing."""
    return "no answer in time" if isinstance(error, KafkaTimeoutError) else str(error)


class BrokerConnection:
    """A connection to a topic's broker, for one consumer group.

    Nothing is committed by itself: the group is used for its committed offsets alone.

    Args:
        cluster: host:port,... or all settings of the connection.
        topic: The topic.
        group_id: The group.
        reconnect_seconds: How long to wait for a broker that went away.
        stopped: Called while waiting; True gives up at once.
        isolation_level: Whether rows of open and aborted transactions count, in Kafka's words.

    Attributes:
        topic: The topic.
        consumer: kafka-python's consumer, with all partitions of the topic assigned.
        handles: Partition number → its handle, ascending.

    Raises:
        SourceError: No broker answers or lets this client in, or there is no such topic.
    """

    def __init__(
        self,
        cluster: str | ClientSettings,
        topic: str,
        group_id: str,
        reconnect_seconds: float,
        stopped: Callable[[], bool],
        isolation_level: str = "read_committed",
    ) -> None:
        self.topic = topic
        self._reconnect_seconds = reconnect_seconds
        self._stopped = stopped
        self._heard_at = self._probed_at = time.monotonic()
        try:
            self._servers = ClientSettings.of(cluster)
            needs = Needs(reads=(topic,), group=group_id)
            check_access(self._servers, needs, CONNECT_SECONDS, stopped)
            self.consumer = _open_consumer(self._servers, group_id, isolation_level)
        except (AccessError, ClusterConfigError) as error:
            raise SourceError(str(error)) from None
        except (KafkaError, ValueError) as error:
            raise SourceError(f"no broker answers at {cluster}: {error}") from None
        try:
            partitions = self._find_partitions()
        except SourceError:
            self.close()
            raise
        self.handles = {number: TopicPartition(topic, number) for number in partitions}
        self.consumer.assign(list(self.handles.values()))

    def close(self) -> None:
        """Leaves the broker."""
        self.consumer.close(autocommit=False, timeout_ms=2_000)

    def request(self, doing: str, request: Callable[[], T]) -> T:
        """Repeats a request that fails until it succeeds or reconnect_seconds are over.

        Args:
            doing: What the request is for, as log lines name it.
            request: Asks the broker.

        Raises:
            SourceError: The broker stayed away, or a stop was asked for while it was away.
        """
        give_up_at = time.monotonic() + self._reconnect_seconds
        while True:
            try:
                answer = request()
                self.note_answer()
                return answer
            except KafkaError as error:
                if isinstance(error, REFUSALS):
                    raise SourceError(
                        f"{doing} of {self.topic} at {self._servers} is refused: {error}"
                    ) from None
                if self._stopped() or time.monotonic() >= give_up_at:
                    raise SourceError(
                        f"{doing} of {self.topic} at {self._servers} failed, gave up: "
                        f"{self._reason(error)}"
                    ) from None
                logger.warning("%s failed, trying again: %s", doing, told(error))
                time.sleep(RETRY_SECONDS)

    def request_ends(self, numbers: Iterable[int]) -> dict[int, int]:
        """Asks once where some partitions end, and waits a second for the answer.

        Raises:
            KafkaError: No answer.
        """
        handles = [self.handles[number] for number in numbers]
        found = self.consumer.end_offsets(handles, timeout_ms=QUICK_REQUEST_MS)
        return {handle.partition: int(offset) for handle, offset in found.items()}

    def note_answer(self) -> None:
        """The broker has just answered."""
        self._heard_at = time.monotonic()

    def probe(self) -> None:
        """Asks a silent broker something, once a second: it may be idle or gone.

        Raises:
            SourceError: The broker stayed away for longer than reconnect_seconds.
        """
        now = time.monotonic()
        if now - max(self._probed_at, self._heard_at) < PROBE_SECONDS:
            return
        self._probed_at = now
        try:
            self.request_ends(self.handles)
            self.note_answer()
        except KafkaError as error:
            silent = time.monotonic() - self._heard_at
            if silent >= self._reconnect_seconds:
                raise SourceError(
                    f"the broker at {self._servers} has been away for {silent:.0f} s: "
                    f"{self._reason(error)}"
                ) from None
            logger.warning("the broker has been away for %.0f s: %s", silent, told(error))

    def _reason(self, error: KafkaError) -> str:
        """Why no answer comes: whom kafka-python dialled in vain, or its own words."""
        if self._stopped():  # a stop does not wait for an answer
            return told(error)
        return unreachable(self._servers, self.topic) or told(error)

    def _find_partitions(self) -> list[int]:
        found = self.request(
            "looking for the topic", lambda: self.consumer.partitions_for_topic(self.topic)
        )
        if not found:
            raise SourceError(
                f"there is no topic {self.topic} at {self._servers}: kafka_client.py creates it"
            )
        return sorted(found)


def _open_consumer(servers: ClientSettings, group_id: str, isolation_level: str) -> KafkaConsumer:
    return KafkaConsumer(
        **servers.consumer_options(),
        group_id=group_id,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=isolation_level,
        allow_auto_create_topics=False,
        bootstrap_timeout_ms=10_000,
        max_poll_records=MAX_POLL_ROWS,
        max_partition_fetch_bytes=4 << 20,
        fetch_min_bytes=FETCH_BYTES,
        fetch_max_wait_ms=int(1000 * FETCH_WAIT_SECONDS),
        reconnect_backoff_max_ms=1_000,
        request_timeout_ms=10_000,
        metrics_enabled=False,
    )
