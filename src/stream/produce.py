"""The producer: the rows of a file → one partition of the topic, in order, all of them delivered.

Guarantee: the broker has acknowledged all rows that ``send_file`` counts, on all in-sync replicas.
The producer is idempotent: a request that is retried keeps the order and sends no row twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Callable

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from tqdm import tqdm

from src.cluster.access import AccessError, Needs
from src.cluster.settings import ClientSettings
from src.rows.criteo import is_header
from src.rows.json_wire import json_message
from src.stream.partition_reader import ANSWER_SECONDS, open_reader, records_between

logger = logging.getLogger(__name__)

DELIVERY_SECONDS = 60.0
SETTLE_SECONDS = DELIVERY_SECONDS + 5.0
STOP_SETTLE_SECONDS = 3.0
CLOSE_SECONDS = 0.5
WAIT_SECONDS = 0.01
RATE_SLICE_SECONDS = 0.05
MAX_UNSETTLED_ROWS = 20_000
MAX_STEP_BACK = 100_000
COMPRESSION_TYPES = ("none", "gzip", "snappy", "lz4", "zstd")


class ProduceError(RuntimeError):
    """Rows can't be read or were not delivered; one line says why.

    Attributes:
        delivered: How many rows of the file were delivered all the same.
    """

    def __init__(self, reason: str, delivered: int = 0) -> None:
        super().__init__(reason)
        self.delivered = delivered


@dataclass(frozen=True)
class ProduceOptions:
    """How a file is produced.

    Attributes:
        cluster: host:port,... or all settings of the connection.
        topic: The topic.
        value_format: "tsv" or "json".
        rate: Rows a second, 0 for as many as possible.
        resume: Continue after the partition's last row.
        compression_type: One of ``COMPRESSION_TYPES``.
    """

    cluster: str | ClientSettings
    topic: str
    value_format: str = "tsv"
    rate: float = 0.0
    resume: bool = False
    compression_type: str = "none"


def check_file(path: Path) -> None:
    """Checks a file before anything is sent.

    Raises:
        ProduceError: The file can't be read, or its first line is a header.
    """
    try:
        with open(path, "rb") as file:
            first = file.readline()
    except OSError as error:
        raise ProduceError(f"{path}: {error.strerror}") from None
    if is_header(first):
        raise ProduceError(f"{path}, line 1: a header row; the file must begin with a row")


def check_partitions(options: ProduceOptions, wanted: int) -> None:
    """Checks that the topic has a partition for each file.

    Raises:
        ProduceError: No broker answers, or the topic has too few partitions.
    """
    with _reader(options, Needs(writes=(options.topic,))) as reader:
        found = len(reader.partitions_for_topic(options.topic) or ())
    if found < wanted:
        raise ProduceError(
            f"topic {options.topic} has {found} partitions, needed: {wanted}; "
            f"kafka_client.py --topic={options.topic} --num_partitions={wanted} adds them"
        )


def next_row(options: ProduceOptions, partition: int) -> int:
    """The number of the first row that the partition does not hold yet.

    Other rows may follow the producer's last row, replayed dead letters for example. Their keys are
    not row numbers.

    Raises:
        ProduceError: No broker answers, or the rows are gone, or no key is a row number.
    """
    handle = TopicPartition(options.topic, partition)
    with _reader(options, Needs(reads=(options.topic,))) as reader:
        begin = reader.beginning_offsets([handle])[handle]
        end = reader.end_offsets([handle])[handle]
        if end == 0:
            return 0
        if begin == end:
            raise ProduceError(f"partition {partition}: its rows are deleted, can't resume")
        return _last_row_number(reader, handle, begin, end) + 1


def _last_row_number(reader: KafkaConsumer, handle: TopicPartition, begin: int, end: int) -> int:
    """Searches for the last key that is a row number, backwards and in growing steps."""
    last_key: bytes | None = None
    step_end, step = end, 1
    while step_end > begin:
        step_begin = max(begin, step_end - step)
        number = None
        for record in records_between(reader, handle, step_begin, step_end):
            last_key = record.key if step_end == end else last_key
            if record.key is not None and record.key.isdigit():
                number = int(record.key)
        if number is not None:
            return number
        step_end, step = step_begin, min(10 * step, MAX_STEP_BACK)
    raise ProduceError(
        f"partition {handle.partition}: no key is a row number, the last one is {last_key!r}"
    )


@contextmanager
def _reader(options: ProduceOptions, needs: Needs) -> Iterator[KafkaConsumer]:
    """A consumer without a group, to inspect the topic; broker errors become ProduceError."""
    try:
        reader = open_reader(options.cluster, needs)
    except AccessError as error:
        raise ProduceError(str(error)) from None
    except (KafkaError, ValueError) as error:
        raise _no_broker(options, error) from None
    try:
        yield reader
    except KafkaError as error:
        raise ProduceError(f"topic {options.topic}: {error}") from None
    finally:
        reader.close(autocommit=False, timeout_ms=int(CLOSE_SECONDS * 1000))


def _no_broker(options: ProduceOptions, error: Exception) -> ProduceError:
    return ProduceError(f"no broker answers at {options.cluster}: {error}")


class Deliveries:
    """Counts the rows sent, and how many of them the broker has acknowledged.

    The caller counts ``sent``. The Kafka producer's own thread counts the others.
    """

    def __init__(self, progress: Any) -> None:
        self.sent = 0
        self.delivered = 0
        self.failed = 0
        self.first_failure = ""
        self.has_hole = False
        self._progress = progress

    @property
    def unsettled(self) -> int:
        """Rows sent that were neither acknowledged nor given up."""
        return self.sent - self.delivered - self.failed

    def succeeded(self, metadata: Any) -> None:
        """One row was acknowledged."""
        self.delivered += 1
        self.has_hole = self.has_hole or self.failed > 0
        self._progress.update(1)

    def went_wrong(self, number: int, error: BaseException) -> None:
        """The row with this number was given up."""
        self.failed += 1
        self.first_failure = self.first_failure or f"the first at line {number + 1}: {error}"

    def complaint(self) -> str:
        """One line on the rows that were not delivered; empty where all were."""
        undelivered = self.sent - self.delivered
        if not undelivered:
            return ""
        reason = self.first_failure or "no answer from the broker"
        hole = "; rows after it were, so --resume would leave a hole" if self.has_hole else ""
        return f"{undelivered} rows were not delivered, {reason}{hole}"


def send_file(
    path: Path, partition: int, options: ProduceOptions, stopped: Callable[[], bool]
) -> int:
    """Sends a file's rows to a partition.

    Args:
        path: The file.
        partition: The partition.
        options: Where to and how.
        stopped: Called between rows; True ends early, once what was sent is delivered.

    Returns:
        How many rows were delivered: all that were sent.

    Raises:
        ProduceError: The file can't be read or a row was not delivered.
    """
    first = next_row(options, partition) if options.resume else 0
    if first:
        logger.info("%s: continuing at row %d", path, first)
    producer = _producer(options)
    problem = ""
    with tqdm(desc=path.name, unit=" rows", position=partition, mininterval=0.5) as progress:
        deliveries = Deliveries(progress)
        try:
            with open(path, "rb") as file:
                rows = enumerate(_paced(file, options.rate, first, stopped), start=first)
                _send_rows(rows, producer, partition, options, deliveries, stopped)
        except OSError as error:
            problem = error.strerror or str(error)
        except ValueError as error:
            problem = str(error)
        _settle(deliveries, stopped)
        _close(producer)
    complaints = [text for text in (problem, deliveries.complaint()) if text]
    if complaints:
        raise ProduceError(f"{path}: {'; '.join(complaints)}", deliveries.delivered)
    return deliveries.delivered


def _producer(options: ProduceOptions) -> KafkaProducer:
    try:
        return KafkaProducer(
            **ClientSettings.of(options.cluster).client_options(),
            acks="all",
            compression_type=None
            if options.compression_type == "none"
            else options.compression_type,
            enable_idempotence=True,
            linger_ms=20,
            batch_size=1 << 18,
            delivery_timeout_ms=int(DELIVERY_SECONDS * 1000),
            request_timeout_ms=10_000,
            max_block_ms=int(ANSWER_SECONDS * 1000),
            reconnect_backoff_max_ms=1_000,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
    except (KafkaError, ValueError) as error:
        raise _no_broker(options, error) from None


def _settle(deliveries: Deliveries, stopped: Callable[[], bool]) -> None:
    """Waits until every row is acknowledged or given up; less long once a stop is asked for.

    After a failure it does not wait: rows that follow a lost one need not arrive.
    """
    give_up_at = time.monotonic() + SETTLE_SECONDS
    stopping = False
    while deliveries.unsettled and not deliveries.failed and time.monotonic() < give_up_at:
        if stopped() and not stopping:
            stopping = True
            give_up_at = min(give_up_at, time.monotonic() + STOP_SETTLE_SECONDS)
        time.sleep(WAIT_SECONDS)


def _close(producer: KafkaProducer) -> None:
    try:
        producer.close(timeout=CLOSE_SECONDS)
    except KafkaError:
        # Rows are still in flight. They already count as not delivered.
        logger.debug("the Kafka producer did not close in time")


def _send_rows(
    rows: Iterable[tuple[int, bytes]],
    producer: KafkaProducer,
    partition: int,
    options: ProduceOptions,
    deliveries: Deliveries,
    stopped: Callable[[], bool],
) -> None:
    for number, line in rows:
        # The Kafka producer's own buffer has no bound.
        while deliveries.unsettled >= MAX_UNSETTLED_ROWS and not deliveries.failed:
            if stopped():
                return
            time.sleep(WAIT_SECONDS)
        if deliveries.failed:
            return
        if options.value_format == "json":
            key, value = _as_json(number, line)
        else:
            key, value = b"%d" % number, line
        try:
            future = producer.send(options.topic, value=value, key=key, partition=partition)
        except (KafkaError, AssertionError) as error:
            raise ValueError(f"line {number + 1} can't be sent: {error}") from None
        deliveries.sent += 1
        future.add_callback(deliveries.succeeded)
        future.add_errback(deliveries.went_wrong, number)


def _as_json(number: int, line: bytes) -> tuple[bytes, bytes]:
    try:
        return json_message(line)
    except ValueError as error:
        raise ValueError(f"line {number + 1} can't be written as JSON: {error}") from None


def _paced(file: BinaryIO, rate: float, first: int, stopped: Callable[[], bool]) -> Iterator[bytes]:
    """The file's rows from ``first`` on, no faster than ``rate``.

    Raises:
        ValueError: The file ends before ``first``: another file was sent before.
    """
    skipped = sum(1 for _ in islice(file, first))
    if skipped < first:
        raise ValueError(f"only {skipped} rows, but {first} were sent before: not the same file")
    began = time.monotonic()
    for number, line in enumerate(file):
        ahead = number / rate - (time.monotonic() - began) if rate else 0.0
        while ahead > RATE_SLICE_SECONDS and not stopped():
            time.sleep(min(ahead, RATE_SLICE_SECONDS))
            ahead = number / rate - (time.monotonic() - began)
        if stopped():
            return
        yield line.rstrip(b"\r\n")
