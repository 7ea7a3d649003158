"""The dead-letter topic ``<topic>.dead``: the rows that can't become features, kept as they came.

The key of a dead letter is the row's origin, ``topic:partition:offset``. Its value is the raw
bytes, and its headers are ``column``, ``reason`` and ``time``. A marker has the same key, and no
value. Its header is ``replaying`` while the row is being replayed, and ``replayed`` afterwards; see
``replay.py``.

Guarantee: ``DeadLetterWriter.write`` returns after the broker has acknowledged every dead letter on
all in-sync replicas. A restarted consumer may write a dead letter twice. So a reader of the topic
takes one dead letter per key, as ``read_dead_letters`` does. An offset names a row only while the
topic exists: if you delete a topic to create it anew, delete its dead letters too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from src.cluster.access import AccessError, Needs, check_access
from src.cluster.broker import SourceError
from src.cluster.settings import ClientSettings
from src.cluster.topic import TopicError, ensure_topic
from src.stream.closing import CLOSE_SECONDS, close_producer
from src.stream.partition_reader import open_reader, records_between

logger = logging.getLogger(__name__)

SUFFIX = ".dead"
COLUMN, REASON, TIME = "column", "reason", "time"
MESSAGE = "message"
"""The column of a message that can't be read as one: its bytes are the whole record's."""
REPLAYING, REPLAYED = "replaying", "replayed"

MAX_DEAD_LETTER_BYTES = 16 << 20
TOPIC_CONFIGS = {
    "max.message.bytes": str(MAX_DEAD_LETTER_BYTES),
    # A dead letter and its markers share a key. Compaction would keep only the last of them.
    "cleanup.policy": "delete",
}
MAX_UNACKNOWLEDGED_BYTES = 32 << 20
CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 10.0
RETRY_SECONDS = 0.5
WAIT_SECONDS = 0.005
REPORT_SECONDS = 5.0

NOT_RETRIED = (
    AuthorizationError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)


class WritingStopped(Exception):  # noqa: N818 - a stop that was asked for is no error
    """A stop was asked for before every dead letter was acknowledged."""


@dataclass(frozen=True)
class DeadLetter:
    """A message that is not a row.

    Attributes:
        topic: The topic it came from.
        partition: Its partition there.
        offset: Its offset there.
        value: The message's value as it came; None for a tombstone.
        column: The column at fault, "row" where the line as a whole is, or ``MESSAGE``.
        reason: What is wrong, on one line.
        time: When it was found, in UTC.
    """

    topic: str
    partition: int
    offset: int
    value: bytes | None
    column: str
    reason: str
    time: datetime

    @property
    def origin(self) -> str:
        """``topic:partition:offset``; no topic's name holds a colon."""
        return f"{self.topic}:{self.partition}:{self.offset}"

    def to_message(self) -> Message:
        """The dead letter as a message of the dead-letter topic."""
        headers = {COLUMN: self.column, REASON: self.reason, TIME: time_text(self.time)}
        return Message(dead_topic(self.topic), self.origin.encode(), self.value, headers)


@dataclass(frozen=True)
class Message:
    """A message to be sent; where no partition is set, Kafka chooses one by the key."""

    topic: str
    key: bytes
    value: bytes | None
    headers: Mapping[str, str]
    partition: int | None = None

    def send(self, producer: KafkaProducer) -> Any:
        """Sends the message and returns the future of its acknowledgement."""
        headers = [
            (name, text.encode(errors="backslashreplace")) for name, text in self.headers.items()
        ]
        return producer.send(
            self.topic, self.value, self.key, headers=headers, partition=self.partition
        )


def dead_topic(topic: str) -> str:
    """Where the bad rows of a topic go."""
    return topic + SUFFIX


def time_text(moment: datetime) -> str:
    """A time as headers hold it: ISO 8601, milliseconds, in UTC."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")


def now_text() -> str:
    """The time now, as headers hold it."""
    return time_text(datetime.now(timezone.utc))


class DeadLetterWriter:
    """Writes to the topic's dead-letter topic, which the first dead letter creates.

    Args:
        cluster: host:port,... or all settings of the connection.
        topic: The topic the bad rows come from.
        reconnect_seconds: How long to wait for a broker that went away.
        stopped: Called while waiting; True gives up at once.
    """

    def __init__(
        self,
        cluster: str | ClientSettings,
        topic: str,
        reconnect_seconds: float = 60,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._cluster = cluster
        self._topic = dead_topic(topic)
        self._reconnect_seconds = reconnect_seconds
        self._stopped = stopped
        self._producer: KafkaProducer | None = None

    def check_rights(self) -> None:
        """Checks, before there is a dead letter, that one could be written.

        Raises:
            SourceError: No broker answers or lets this client in, or a right is missing.
        """
        needs = Needs(writes=(self._topic,), creates=(self._topic,))
        try:
            settings = ClientSettings.of(self._cluster)
            check_access(settings, needs, self._reconnect_seconds, self._stopped)
        except AccessError as error:
            raise SourceError(str(error)) from None

    def write(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Writes dead letters and waits until every one is acknowledged.

        Raises:
            SourceError: The broker stayed away for longer than reconnect_seconds, or refuses.
            WritingStopped: A stop was asked for; some of them may not be written.
        """
        if not dead_letters:
            return
        messages = [dead_letter.to_message() for dead_letter in dead_letters]
        give_up_at = time.monotonic() + self._reconnect_seconds
        while True:
            try:
                self._write_once(messages, give_up_at)
                return
            except (KafkaError, TopicError) as error:
                # A producer that has failed once may have lost its place. A new one may write
                # acknowledged dead letters again, which is harmless.
                self.close()
                if _is_final(error) or time.monotonic() >= give_up_at:
                    raise SourceError(
                        f"{len(dead_letters)} bad rows can't be written to {self._topic} "
                        f"at {self._cluster}: {error}"
                    ) from None
                logger.warning("writing to %s failed, trying again: %s", self._topic, error)
            self._sleep(RETRY_SECONDS, give_up_at)

    def close(self) -> None:
        """Leaves the broker."""
        if self._producer is not None:
            close_producer(self._producer)
            self._producer = None

    def _write_once(self, messages: Sequence[Message], give_up_at: float) -> None:
        if self._producer is None:
            ensure_topic(self._cluster, self._topic, 1, -1, CONNECT_SECONDS, TOPIC_CONFIGS)
            delivery_seconds = max(self._reconnect_seconds, REQUEST_SECONDS)
            max_bytes = 2 * MAX_DEAD_LETTER_BYTES
            self._producer = open_producer(self._cluster, delivery_seconds, max_bytes)
        report_at = time.monotonic() + REPORT_SECONDS

        def wait() -> None:
            nonlocal report_at
            self._sleep(WAIT_SECONDS, give_up_at)
            if time.monotonic() >= give_up_at:
                raise KafkaTimeoutError("no acknowledgement")
            if time.monotonic() >= report_at:
                report_at += REPORT_SECONDS
                logger.warning("waiting for the acknowledgement of %s", self._topic)

        for error in deliver(self._producer, messages, wait):
            if error is not None:
                raise error

    def _sleep(self, seconds: float, give_up_at: float) -> None:
        until = min(time.monotonic() + seconds, give_up_at)
        while True:
            if self._stopped():
                raise WritingStopped(f"stopped before all bad rows were in {self._topic}")
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))


def _is_final(error: Exception) -> bool:
    """Whether trying again can't help."""
    if isinstance(error, TopicError):
        return not error.retriable
    return isinstance(error, NOT_RETRIED)


def open_producer(
    cluster: str | ClientSettings, delivery_seconds: float, max_bytes: int
) -> KafkaProducer:
    """An idempotent producer that waits for all in-sync replicas.

    Args:
        cluster: host:port,... or all settings of the connection.
        delivery_seconds: After this time a message that is not acknowledged is given up.
        max_bytes: A larger message is refused before it is sent.

    Raises:
        KafkaError: No broker answers.
        ValueError: The address is malformed.
    """
    return KafkaProducer(
        **ClientSettings.of(cluster).client_options(),
        acks="all",
        enable_idempotence=True,
        delivery_timeout_ms=int(delivery_seconds * 1000) + 1,
        request_timeout_ms=int(REQUEST_SECONDS * 1000),
        max_block_ms=int(CONNECT_SECONDS * 1000),
        max_request_size=max_bytes,
        bootstrap_timeout_ms=int(CONNECT_SECONDS * 1000),
        reconnect_backoff_max_ms=1_000,
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )


def deliver(
    producer: KafkaProducer, messages: Sequence[Message], wait: Callable[[], None]
) -> list[KafkaError | None]:
    """Sends messages and waits for the broker's answers.

    Args:
        producer: Sends them, in this order.
        messages: The messages.
        wait: Called again and again while an answer is missing. It sleeps a moment, or raises to
            give up.

    Returns:
        The error of each message, None where it was acknowledged.
    """
    outcomes: list[KafkaError | None] = []
    sent: list[Any] = []
    unacknowledged_bytes = 0
    for message in messages:
        try:
            sent.append(message.send(producer))
        except KafkaError as error:
            sent.append(error)
        unacknowledged_bytes += len(message.value or b"")
        if unacknowledged_bytes >= MAX_UNACKNOWLEDGED_BYTES:
            outcomes += [_outcome(answer, wait) for answer in sent]
            sent, unacknowledged_bytes = [], 0
    return outcomes + [_outcome(answer, wait) for answer in sent]


def _outcome(answer: Any, wait: Callable[[], None]) -> KafkaError | None:
    if isinstance(answer, KafkaError):
        return answer
    while not answer.is_done:
        wait()
    return answer.exception if answer.failed() else None


@dataclass
class DeadLetters:
    """What a dead-letter topic holds.

    Attributes:
        topic: The topic the bad rows come from.
        outstanding: Origin → the dead letter, for those that were not replayed.
        replaying: Origin → the end of its partition when its replay began, for those whose replay
            is not known to have ended.
        replayed: Origins of the dead letters that were replayed.
    """

    topic: str
    outstanding: dict[str, DeadLetter] = field(default_factory=dict)
    replaying: dict[str, int] = field(default_factory=dict)
    replayed: set[str] = field(default_factory=set)

    def add(self, record: Any) -> bool:
        """Adds a message; False if it is neither a dead letter nor a marker of the topic."""
        origin = (record.key or b"").decode(errors="replace")
        try:
            headers = {
                name: (value or b"").decode(errors="replace")
                for name, value in record.headers or ()
            }
            topic, partition_text, offset_text = origin.split(":")
            partition, offset = int(partition_text), int(offset_text)
            if topic != self.topic:
                return False
            if REPLAYED in headers:
                self._end_replay(origin)
            elif REPLAYING in headers:
                self._begin_replay(origin, int(headers[REPLAYING]))
            else:
                column, reason = headers[COLUMN], headers[REASON]
                found_at = datetime.fromisoformat(headers[TIME])
                self._add_dead_letter(
                    DeadLetter(topic, partition, offset, record.value, column, reason, found_at)
                )
        except (KeyError, ValueError):
            return False
        return True

    def in_order(self) -> list[DeadLetter]:
        """The outstanding dead letters by partition and offset."""
        return sorted(self.outstanding.values(), key=lambda each: (each.partition, each.offset))

    def _add_dead_letter(self, dead_letter: DeadLetter) -> None:
        if dead_letter.origin not in self.replayed:
            self.outstanding.setdefault(dead_letter.origin, dead_letter)

    def _begin_replay(self, origin: str, end: int) -> None:
        # Each attempt first searches for the row up to its own end, so the last end counts.
        if origin not in self.replayed:
            self.replaying[origin] = max(end, self.replaying.get(origin, 0))

    def _end_replay(self, origin: str) -> None:
        self.replayed.add(origin)
        self.outstanding.pop(origin, None)
        self.replaying.pop(origin, None)


def read_dead_letters(cluster: str | ClientSettings, topic: str) -> list[DeadLetter]:
    """The dead letters of a topic that were not replayed, each once, by partition and offset.

    Raises:
        SourceError: No broker answers, or there is no such topic.
    """
    with open_topic(cluster, topic, Needs(reads=(dead_topic(topic),))) as reader:
        return read_dead_letter_topic(reader, topic).in_order()


def read_dead_letter_topic(reader: KafkaConsumer, topic: str) -> DeadLetters:
    """Reads all of a topic's dead-letter topic; the result is empty where there is none.

    Raises:
        KafkaError: The broker doesn't answer.
    """
    found, foreign = DeadLetters(topic), 0
    for number in sorted(reader.partitions_for_topic(dead_topic(topic)) or ()):
        handle = TopicPartition(dead_topic(topic), number)
        begin = reader.beginning_offsets([handle])[handle]
        end = reader.end_offsets([handle])[handle]
        for record in records_between(reader, handle, begin, end):
            foreign += not found.add(record)
    if foreign:
        logger.warning(
            "%s: %d messages are not dead letters of %s", dead_topic(topic), foreign, topic
        )
    return found


@contextmanager
def open_topic(cluster: str | ClientSettings, topic: str, needs: Needs) -> Iterator[KafkaConsumer]:
    """A consumer without a group, to read a topic and its dead letters.

    Raises:
        SourceError: No broker answers, there is no such topic, or Kafka raised an error inside the
            block.
    """
    try:
        reader = open_reader(cluster, needs)
    except AccessError as error:
        raise SourceError(str(error)) from None
    except (KafkaError, ValueError) as error:
        raise SourceError(f"no broker answers at {cluster}: {error}") from None
    try:
        if not reader.partitions_for_topic(topic):
            raise SourceError(f"there is no topic {topic} at {cluster}")
        yield reader
    except KafkaError as error:
        raise SourceError(f"{dead_topic(topic)} at {cluster}: {error}") from None
    finally:
        reader.close(autocommit=False, timeout_ms=int(CLOSE_SECONDS * 1000))
