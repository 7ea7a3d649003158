"""Reads a topic without a group: what a partition holds from one offset to another."""

from __future__ import annotations

import time
from collections.abc import Iterator

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError

from src.cluster.access import Needs, check_access
from src.cluster.settings import ClientSettings
from src.stream.fetches import FetchWatch
from src.stream.record_batches import Record, Unreadable

ANSWER_SECONDS = 10.0
POLL_SECONDS = 1.0


def open_reader(cluster: str | ClientSettings, needs: Needs) -> KafkaConsumer:
    """A consumer without a group, which creates no topic.

    Args:
        cluster: host:port,... or all settings of the connection.
        needs: What will be done with it and beside it.

    Raises:
        AccessError: No broker answers or lets this client in, or a right is missing.
        KafkaError: No broker answers.
        ValueError: The address is malformed.
    """
    settings = ClientSettings.of(cluster)
    check_access(settings, needs, ANSWER_SECONDS)
    reader = KafkaConsumer(
        **settings.consumer_options(),
        auto_offset_reset="none",
        # Our own rows are looked for, which are never part of a transaction. They are there even
        # if somebody else's open transaction begins before them.
        isolation_level="read_uncommitted",
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        bootstrap_timeout_ms=int(ANSWER_SECONDS * 1000),
        metrics_enabled=False,
    )
    FetchWatch(reader)  # a message that can't be read does not hide those after it
    return reader


def records_between(
    reader: KafkaConsumer, handle: TopicPartition, begin: int, end: int
) -> Iterator[Record | Unreadable]:
    """Reads the messages of a partition from offset ``begin`` up to ``end``, one fetch at a time.

    Those of open and aborted transactions are among them.

    Args:
        reader: Gets this partition assigned, and no other.
        handle: The partition.
        begin: Offset of the first message.
        end: Offset after the last one; messages up to there must exist or have existed.

    Raises:
        KafkaError: The broker doesn't answer for ten seconds, or the row at ``begin`` is deleted.
    """
    reader.assign([handle])
    reader.seek(handle, begin)
    heard_at = time.monotonic()
    while (position := reader.position(handle)) < end:
        records = reader.poll(timeout_ms=int(POLL_SECONDS * 1000)).get(handle, [])
        for record in records:
            if record.offset >= end:
                return
            yield record
        if records or reader.position(handle) > position:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > ANSWER_SECONDS:
            raise KafkaTimeoutError(
                f"offset {position} of partition {handle.partition} can't be read"
            )
