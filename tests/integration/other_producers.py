"""Messages as other producers write them: transactions, headers, damaged batches on the disk."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Callable

from crc32c import crc32c
from kafka import KafkaProducer

from examples.services.kafka_service import KafkaService
from src.stream.row_source import RowSource

PATIENCE = 60.0
CRC_BEGINS, CRC_ENDS = 17, 21
FIRST_TIMESTAMP, MAX_TIMESTAMP = slice(27, 35), slice(35, 43)
RECORDS = 61
"""Where the parts of a batch lie, in bytes from its begin."""


def transactional(service: KafkaService, name: str) -> KafkaProducer:
    """A producer of transactions."""
    producer = KafkaProducer(
        bootstrap_servers=service.bootstrap_servers,
        transactional_id=name,
        acks="all",
        enable_idempotence=True,
    )
    producer.init_transactions()
    return producer


def send_all(
    producer: KafkaProducer, topic: str, partition: int, values: Iterable[bytes | None]
) -> None:
    """Sends values and waits for their acknowledgement; the transaction stays open."""
    for value in values:
        key = b"key" if value is None else None  # kafka-python wants one of both
        producer.send(topic, value, key=key, partition=partition)
    producer.flush(30)


def send_plain(
    service: KafkaService, topic: str, partition: int, values: Sequence[bytes | None]
) -> None:
    """Sends values as ordinary messages."""
    producer = KafkaProducer(bootstrap_servers=service.bootstrap_servers, acks="all")
    send_all(producer, topic, partition, values)
    producer.close()


def poll_until(source: RowSource, condition: Callable[[], bool]) -> None:
    """Polls until a condition holds."""
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at
        source.poll(0.1)


def exhausted(source: RowSource) -> bool:
    """Whether all partitions are."""
    return all(held.exhausted for held in source.held(1_000_000))


def segment(service: KafkaService, topic: str, partition: int) -> Path:
    """The file in which the broker keeps the newest messages of a partition."""
    return sorted((service.data_dir / "kafka-data" / f"{topic}-{partition}").glob("*.log"))[-1]


def batch_starts(data: bytes) -> list[int]:
    """Where the batches of a segment begin."""
    starts, place = [], 0
    while place + 12 <= len(data) and data[place + 16] == 2:
        starts.append(place)
        place += 12 + int.from_bytes(data[place + 8 : place + 12], "big")
    return starts


def damage(
    path: Path, number: int, change: Callable[[bytearray], None], right_checksum: bool
) -> None:
    """Changes one batch of a segment where it lies; the broker serves it as it is."""
    data = path.read_bytes()
    starts = [*batch_starts(data), len(data)]
    begin = starts[number]
    end = begin + 12 + int.from_bytes(data[begin + 8 : begin + 12], "big")
    batch = bytearray(data[begin:end])
    change(batch)
    if right_checksum:
        batch[CRC_BEGINS:CRC_ENDS] = struct.pack(">I", crc32c(bytes(batch[CRC_ENDS:])))
    with open(path, "r+b") as file:
        file.seek(begin)
        file.write(batch)
