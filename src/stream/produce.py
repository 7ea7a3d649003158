"""The producer: the rows of a file → one partition of the topic, in order, all of them delivered.

Guarantee: the broker has acknowledged all rows that ``send_file`` counts, on all in-sync replicas.
The producer is idempotent: a request that is retried keeps the order and sends no row twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

from kafka import KafkaConsumer, KafkaProducer, TopicPartition, codec
from kafka.errors import KafkaError, MessageSizeTooLargeError
from tqdm import tqdm

from src.cluster.access import AccessError, Needs
from src.cluster.settings import ClientSettings
from src.cluster.topic import largest_message
from src.process.files import PathLike
from src.rows.bad_rows import BadLines
from src.rows.criteo import ROW, BadRow
from src.rows.json_wire import json_message
from src.rows.line_blocks import MAX_LINE_BYTES
from src.rows.opened_file import OpenedFile, ReadStopped, RowFileError, open_rows
from src.stream.closing import CLOSE_SECONDS, close_producer
from src.stream.partition_reader import ANSWER_SECONDS, open_reader, records_between
from src.stream.retries import heard_retries
from src.stream.rows_to_send import LastRow, paced, rows_to_send

logger = logging.getLogger(__name__)

DELIVERY_SECONDS = 60.0
SETTLE_SECONDS = DELIVERY_SECONDS + 5.0
STOP_SETTLE_SECONDS = 3.0
WAIT_SECONDS = 0.01
NO_ANSWER = "no answer from the broker"
MAX_UNSETTLED_ROWS = 20_000
MAX_STEP_BACK = 100_000
COMPRESSION_TYPES = ("none", "gzip", "snappy", "lz4", "zstd")
COMPRESSION_LIBRARIES = {
    "snappy": (codec.has_snappy, "python-snappy"),
    "lz4": (codec.has_lz4, "lz4"),
    "zstd": (codec.has_zstd, "zstandard"),
}
FRAME_BYTES = 100  # what Kafka adds to key and value of a message that is alone in its batch


class ProduceError(RuntimeError):
    """Rows can't be read or were not delivered; one line says why.

    Attributes:
        delivered: How many rows of the file were delivered all the same.
    """

    def __init__(self, reason: str, delivered: int = 0) -> None:
        super().__init__(reason)
        self.delivered = delivered


class _NotSent(ValueError):
    """A line is passed over; one line says why."""


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
        max_message_bytes: The most bytes of a message that the topic takes, its frame included.
    """

    cluster: str | ClientSettings
    topic: str
    value_format: str = "tsv"
    rate: float = 0.0
    resume: bool = False
    compression_type: str = "none"
    max_message_bytes: int = MAX_LINE_BYTES


def check_compression(compression_type: str) -> None:
    """Checks that rows can be compressed.

    Raises:
        ProduceError: A Python package is missing.
    """
    is_there, package = COMPRESSION_LIBRARIES.get(compression_type, (lambda: True, ""))
    if not is_there():
        raise ProduceError(
            f"--compression_type={compression_type} needs the Python package {package}: "
            "make setup installs it"
        )


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


def with_message_limit(options: ProduceOptions) -> ProduceOptions:
    """The same options, with the topic's own limit of a message where it is the smaller one.

    A larger message fails at the broker, and the messages in flight beside it fail too. So it must
    not be sent.
    """
    limit = largest_message(options.cluster, options.topic)
    most = options.max_message_bytes
    return replace(options, max_message_bytes=most if limit is None else min(limit, most))


def last_row(options: ProduceOptions, partition: int) -> LastRow | None:
    """The last row of a file that the partition holds; None if it never held any message.

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
            return None
        if begin == end:
            raise ProduceError(f"partition {partition}: its rows are deleted, can't resume")
        return _last_row(reader, handle, begin, end)


def _last_row(reader: KafkaConsumer, handle: TopicPartition, begin: int, end: int) -> LastRow:
    """Searches for the last key that is a row number, backwards and in growing steps."""
    last_key: bytes | None = None
    step_end, step = end, 1
    while step_end > begin:
        step_begin = max(begin, step_end - step)
        found = None
        for record in records_between(reader, handle, step_begin, step_end):
            last_key = record.key if step_end == end else last_key
            if record.key is not None and record.key.isdigit():
                found = LastRow(int(record.key), record.value, handle.partition, record.offset)
        if found is not None:
            return found
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

    def complaint(self, retried: str) -> str:
        """One line on the rows that were not delivered; empty where all were.

        Args:
            retried: Why the broker did not take some rows at first, empty where it took all.
        """
        undelivered = self.sent - self.delivered
        if not undelivered:
            return ""
        reason = self.first_failure or NO_ANSWER
        reason += f" ({retried})" if retried else ""
        hole = "; rows after it were, so --resume would leave a hole" if self.has_hole else ""
        return f"{undelivered} rows were not delivered, {reason}{hole}"


def send_file(
    path: PathLike, partition: int, options: ProduceOptions, stopped: Callable[[], bool]
) -> int:
    """Sends the rows of a file, see ``OpenedFile``, to a partition.

    Args:
        path: The file.
        partition: The partition.
        options: Where to and how.
        stopped: As for ``send_opened``.

    Returns:
        How many rows were delivered: all that were sent.

    Raises:
        ProduceError: As for ``send_opened``, or the file's first line is not a row.
    """
    try:
        with open_rows(path, stopped) as file:
            return send_opened(file, partition, options, stopped)
    except RowFileError as error:
        raise ProduceError(str(error)) from None
    except ReadStopped:
        return 0


def send_opened(
    file: OpenedFile, partition: int, options: ProduceOptions, stopped: Callable[[], bool]
) -> int:
    """Sends the rows of an opened file to a partition.

    Bad rows are sent as they are: the consumer keeps them as dead letters. Some lines can't be
    sent: one that is too long, and a last one without its end. They are logged and passed over.

    Args:
        file: The file.
        partition: The partition.
        options: Where to and how.
        stopped: Called between rows; True ends early, once what was sent is delivered.

    Returns:
        How many rows were delivered: all that were sent.

    Raises:
        ProduceError: The file can't be read, or is not the one to resume, or a row was not
            delivered.
    """
    last = last_row(options, partition) if options.resume else None
    if last is not None:
        logger.info("%s: continuing at row %d", file.name, last.number + 1)
    passed_over = BadLines(file.name)
    producer = _producer(options)
    problem = ""
    name = Path(file.name).name
    progress_bar = tqdm(desc=name, unit=" rows", position=partition, mininterval=0.5)
    with progress_bar as progress, heard_retries() as retries:
        deliveries = Deliveries(progress)
        try:
            rows = paced(rows_to_send(file, last, passed_over, stopped), options.rate, stopped)
            _send_rows(rows, producer, partition, options, deliveries, passed_over, stopped)
        except RowFileError as error:
            problem = str(error)
        except ReadStopped:
            pass  # what was sent is settled below, as after any stop
        _settle(deliveries, stopped)
        close_producer(producer)
    passed_over.sum_up()
    if passed_over.count:
        logger.warning("%s: %d lines were not sent", file.name, passed_over.count)
    complaint = deliveries.complaint(retries.last)
    if problem or complaint:
        named = [problem, f"{file.name}: {complaint}" if complaint else ""]
        raise ProduceError("; ".join(filter(None, named)), deliveries.delivered)
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
    if deliveries.unsettled and not deliveries.failed:
        deliveries.first_failure = NO_ANSWER  # closing the producer gives these rows up


def _send_rows(
    rows: Iterable[tuple[int, bytes]],
    producer: KafkaProducer,
    partition: int,
    options: ProduceOptions,
    deliveries: Deliveries,
    passed_over: BadLines,
    stopped: Callable[[], bool],
) -> None:
    is_json = options.value_format == "json"
    most_bytes = options.max_message_bytes - FRAME_BYTES
    for number, line in rows:
        # The Kafka producer's own buffer has no bound.
        while deliveries.unsettled >= MAX_UNSETTLED_ROWS and not deliveries.failed:
            if stopped():
                return
            time.sleep(WAIT_SECONDS)
        if deliveries.failed:
            return
        try:
            key, value = json_message(line) if is_json else (b"%d" % number, line)
            if len(key) + len(value) > most_bytes:
                raise _NotSent(f"{len(value):,} bytes, the topic takes at most {most_bytes:,}")
            future = producer.send(options.topic, value=value, key=key, partition=partition)
        except (ValueError, MessageSizeTooLargeError) as error:
            passed_over.observe(number + 1, 1, [BadRow(0, ROW, f"can't be sent: {error}")])
            continue
        except (KafkaError, AssertionError) as error:
            raise RowFileError(
                f"{passed_over.name}, line {number + 1} can't be sent: {error}"
            ) from None
        deliveries.sent += 1
        future.add_callback(deliveries.succeeded)
        future.add_errback(deliveries.went_wrong, number)
