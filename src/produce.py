"""The producer: the rows of a file → one partition of the topic, in order, all of them delivered.

Guarantee: ``produce_file`` returns a count of rows that the broker has acknowledged on all in-sync
replicas. The producer is idempotent, so a retried request leaves no row twice, and keeps the order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from tqdm import tqdm

from src.criteo import is_header, json_message

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 60.0
RATE_SLICE_SECONDS = 0.05
STOP_FLUSH_SECONDS = 4.0


class ProduceError(RuntimeError):
    """Rows can't be read or were not delivered; one line says why."""


@dataclass(frozen=True)
class ProduceOptions:
    """How a file is produced.

    Attributes:
        bootstrap_servers: host:port,...
        topic: The topic.
        value_format: "tsv" or "json".
        rate: Rows a second, 0 for as many as possible.
        resume: Go on behind the partition's last row.
    """

    bootstrap_servers: str
    topic: str
    value_format: str = "tsv"
    rate: float = 0.0
    resume: bool = False


def check_file(path: Path) -> None:
    """Looks at a file before anything is sent.

    Raises:
        ProduceError: It can't be read, or its first line is a header.
    """
    try:
        with open(path, "rb") as file:
            first = file.readline()
    except OSError as error:
        raise ProduceError(f"{path}: {error.strerror}") from None
    if is_header(first):
        raise ProduceError(f"{path}, line 1: a header row; the file must begin with a row")


def check_partitions(options: ProduceOptions, wanted: int) -> None:
    """Makes sure that the topic has a partition for each file.

    Raises:
        ProduceError: No broker answers, or the topic has too few partitions.
    """
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=options.bootstrap_servers.split(","), bootstrap_timeout_ms=10_000
        )
    except KafkaError as error:
        raise ProduceError(f"no broker answers at {options.bootstrap_servers}: {error}") from None
    try:
        found = len(consumer.partitions_for_topic(options.topic) or ())
    finally:
        consumer.close()
    if found < wanted:
        raise ProduceError(
            f"topic {options.topic} has {found} partitions, {wanted} are needed: "
            f"kafka_client.py --topic={options.topic} --num_partitions={wanted} makes them"
        )


def next_row(options: ProduceOptions, partition: int) -> int:
    """The number of the first row that the partition does not hold yet.

    Raises:
        ProduceError: The last message's key is no row number.
    """
    handle = TopicPartition(options.topic, partition)
    consumer = KafkaConsumer(
        bootstrap_servers=options.bootstrap_servers.split(","),
        auto_offset_reset="none",
        enable_auto_commit=False,
    )
    try:
        consumer.assign([handle])
        end = consumer.end_offsets([handle])[handle]
        if end == consumer.beginning_offsets([handle])[handle]:
            return 0
        consumer.seek(handle, end - 1)
        records = consumer.poll(timeout_ms=10_000).get(handle, [])
    finally:
        consumer.close(autocommit=False)
    if not records:
        raise ProduceError(f"partition {partition}: offset {end - 1} can't be read to resume")
    key = records[-1].key
    if key is None or not key.isdigit():
        raise ProduceError(f"partition {partition}: the last key {key!r} is no row number")
    return int(key) + 1


class Deliveries:
    """Counts what the broker has acknowledged and what failed."""

    def __init__(self, progress: Any) -> None:
        self.delivered = 0
        self.failed = 0
        self.first_error = ""
        self._progress = progress

    def succeeded(self, metadata: Any) -> None:
        """One row was acknowledged."""
        self.delivered += 1
        self._progress.update(1)

    def went_wrong(self, error: BaseException) -> None:
        """One row was given up."""
        self.failed += 1
        self.first_error = self.first_error or str(error)


def produce_file(
    path: Path, partition: int, options: ProduceOptions, stopped: Callable[[], bool]
) -> int:
    """Sends a file's rows to a partition.

    Args:
        path: The file.
        partition: The partition.
        options: Where to and how.
        stopped: Asked between rows; True ends early, after what was sent is delivered.

    Returns:
        How many rows were delivered.

    Raises:
        ProduceError: The file can't be read or a row was not delivered.
    """
    first = next_row(options, partition) if options.resume else 0
    if first:
        logger.info("%s: going on at row %d", path, first)
    producer = KafkaProducer(
        bootstrap_servers=options.bootstrap_servers.split(","),
        acks="all",
        enable_idempotence=True,
        linger_ms=20,
        batch_size=1 << 18,
        delivery_timeout_ms=int(FLUSH_SECONDS * 1000),
        request_timeout_ms=10_000,
        metrics_enabled=False,
    )
    try:
        with (
            open(path, "rb") as file,
            tqdm(desc=path.name, unit=" rows", position=partition, mininterval=0.5) as progress,
        ):
            deliveries = Deliveries(progress)
            _send_rows(file, first, producer, partition, options, deliveries, stopped)
            producer.flush(timeout=STOP_FLUSH_SECONDS if stopped() else FLUSH_SECONDS)
    except OSError as error:
        raise ProduceError(f"{path}: {error.strerror or error}") from None
    except (KafkaError, ValueError) as error:
        raise ProduceError(f"{path}: {error}") from None
    finally:
        producer.close(timeout=1)
    if deliveries.failed:
        raise ProduceError(
            f"{path}: {deliveries.failed} rows were not delivered: {deliveries.first_error}"
        )
    return deliveries.delivered


def _send_rows(
    file: BinaryIO,
    first: int,
    producer: KafkaProducer,
    partition: int,
    options: ProduceOptions,
    deliveries: Deliveries,
    stopped: Callable[[], bool],
) -> None:
    for number, line in enumerate(_paced(file, options.rate, first, stopped), start=first):
        if options.value_format == "json":
            key, value = _as_json(file.name, number, line)
        else:
            key, value = b"%d" % number, line
        future = producer.send(options.topic, value=value, key=key, partition=partition)
        future.add_callback(deliveries.succeeded)
        future.add_errback(deliveries.went_wrong)
        if deliveries.failed:
            return


def _as_json(name: str, number: int, line: bytes) -> tuple[bytes, bytes]:
    try:
        return json_message(line)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"line {number + 1} can't be written as JSON: {error}") from None


def _paced(file: BinaryIO, rate: float, first: int, stopped: Callable[[], bool]) -> Iterator[bytes]:
    """The file's rows from ``first`` on, no faster than ``rate``."""
    began = time.monotonic()
    for number, line in enumerate(file):
        if number < first:
            continue
        if stopped():
            return
        ahead = (number - first) / rate - (time.monotonic() - began) if rate else 0.0
        while ahead > RATE_SLICE_SECONDS and not stopped():
            time.sleep(min(ahead, RATE_SLICE_SECONDS))
            ahead = (number - first) / rate - (time.monotonic() - began)
        yield line.rstrip(b"\r\n")
