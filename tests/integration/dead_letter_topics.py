"""Writes and reads the topics that the tests of dead letters use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from src.dead_letters.dead_letters import DeadLetter, DeadLetterWriter, Message, deliver

MOMENT = datetime(2026, 11, 24, 10, 0, 0, 250_000, timezone.utc)
GOOD = b"1" + b"\t5" * 13 + b"\t68fd1e64" * 26


def dead_letter(topic: str, offset: int, value: bytes | None, partition: int = 0) -> DeadLetter:
    reason = "1 fields, expected 40: b'no row'"
    return DeadLetter(topic, partition, offset, value, "row", reason, MOMENT)


def write(address: str, dead_letters: Sequence[DeadLetter]) -> None:
    writer = DeadLetterWriter(address, dead_letters[0].topic)
    try:
        writer.write(dead_letters)
    finally:
        writer.close()


def records(address: str, topic: str, partition: int = 0) -> list[Any]:
    """All messages of a partition."""
    handle = TopicPartition(topic, partition)
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    consumer.assign([handle])
    end, found = consumer.end_offsets([handle])[handle], list[Any]()
    while len(found) < end:
        found += consumer.poll(timeout_ms=1000).get(handle, [])
    consumer.close()
    return found


def values(address: str, topic: str, partition: int = 0) -> list[bytes | None]:
    return [record.value for record in records(address, topic, partition)]


def send(address: str, *messages: Message) -> None:
    """Sends messages as a process would that is killed right after."""
    producer = KafkaProducer(bootstrap_servers=address, acks="all")
    assert deliver(producer, messages, lambda: time.sleep(0.01)) == [None] * len(messages)
    producer.close()
