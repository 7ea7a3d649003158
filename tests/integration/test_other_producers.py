"""What other producers write into the topic: transactions, compression, headers, damage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kafka import KafkaProducer, TopicPartition

from examples.services.kafka_service import KafkaService
from src.cluster.access import Needs
from src.cluster.broker import SourceError
from src.stream.partition_reader import open_reader, records_between
from src.stream.position import Position
from src.stream.row_source import RowSource
from tests.integration.conftest import TopicFactory
from tests.integration.other_producers import (
    FIRST_TIMESTAMP,
    MAX_TIMESTAMP,
    RECORDS,
    damage,
    exhausted,
    poll_until,
    segment,
    send_all,
    send_plain,
    transactional,
)

Change = Callable[[bytearray], None]


def values_of(source: RowSource, number: int = 0) -> list[bytes | None]:
    return source.held(1_000_000)[number].values


def read_all(source: RowSource) -> None:
    source.seek(Position(dict.fromkeys(source.partitions, 0)))
    poll_until(source, lambda: exhausted(source))


def test_rows_of_aborted_transactions_are_not_read_and_an_open_one_is_no_stall(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name = topic(2)
    one, other = (
        transactional(kafka_service, f"{name}-a"),
        transactional(kafka_service, f"{name}-b"),
    )
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        for producer, ending, rows in (
            (one, one.commit_transaction, [b"a0", b"a1"]),
            (one, one.abort_transaction, [b"lost", b"lost"]),
            (other, other.commit_transaction, [b"b0"]),
        ):
            producer.begin_transaction()
            send_all(producer, name, 0, rows)
            send_all(producer, name, 1, rows)
            ending()
        # Interleaved: the first begins before the second, which ends at once.
        one.begin_transaction()
        other.begin_transaction()
        send_all(one, name, 0, [b"open0"])
        send_all(other, name, 0, [b"b1"])
        send_all(other, name, 1, [b"b1"])
        send_all(one, name, 0, [b"open1"])
        other.commit_transaction()
        send_plain(kafka_service, name, 1, [b"plain"])

        read_all(source)
        assert values_of(source) == [b"a0", b"a1", b"b0"]
        assert values_of(source, 1) == [b"a0", b"a1", b"b0", b"b1", b"plain"]
        assert {number: lag.rows for number, lag in source.lag().items()} == {0: 8, 1: 11}
        ends = source.try_ends()
        assert ends == {0: 8, 1: 11}  # partition 0 ends before the open transaction
        assert source.held_back() == {0: 4}
        assert source.fetched_until() == {}

        one.abort_transaction()
        poll_until(source, lambda: len(values_of(source)) == 4 and exhausted(source))
        assert values_of(source) == [b"a0", b"a1", b"b0", b"b1"]
        assert source.held(100)[0].offset.tolist() == [0, 1, 6, 9]
        source.drop(0, 4)
        assert source.fetched_until() == {0: 13}
        assert source.lag()[0].rows == 0
        assert source.held_back() == {}
        # A fetch may begin inside of an aborted transaction, or right before its marker.
        for begin, left in ((3, [b"b0", b"b1"]), (4, [b"b0", b"b1"]), (5, [b"b0", b"b1"])):
            source.seek(Position({0: begin, 1: 11}))
            poll_until(source, lambda: exhausted(source))
            assert values_of(source) == left
    one.close()
    other.close()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_topics_are_read(
    kafka_service: KafkaService, topic: TopicFactory, codec: str
) -> None:
    name = topic(1)
    producer = KafkaProducer(
        bootstrap_servers=kafka_service.bootstrap_servers,
        compression_type=codec,
        linger_ms=200,
        batch_size=4 << 20,
        max_request_size=8 << 20,
    )
    wide = b"x" * 1000
    for number in range(1500):
        producer.send(name, b"%d" % number + wide)  # 1.5 MB in one batch
    producer.flush(30)
    producer.close()
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        read_all(source)
        assert values_of(source) == [b"%d" % number + wide for number in range(1500)]
        source.seek(Position({0: 1400}))  # inside of a batch
        poll_until(source, lambda: exhausted(source))
        assert len(values_of(source)) == 100


def test_headers_and_missing_values_and_times_of_other_producers(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name = topic(1)
    producer = KafkaProducer(bootstrap_servers=kafka_service.bootstrap_servers, acks="all")
    headers = [("name", b"value"), ("null", b""), ("", b"")]
    for value in (b"row", b"", None):
        producer.send(name, value, key=b"key", headers=headers).get(30)
    producer.close()
    path = segment(kafka_service, name, 0)

    def other_headers(batch: bytearray) -> None:
        batch[:] = batch.replace(b"name", b"\xff\xfe\x80e").replace(b"null\x00", b"null\x01")

    def no_time(batch: bytearray) -> None:
        batch[FIRST_TIMESTAMP] = batch[MAX_TIMESTAMP] = b"\xff" * 8

    damage(path, 0, other_headers, right_checksum=True)
    damage(path, 1, no_time, right_checksum=True)
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        read_all(source)
        assert values_of(source) == [b"row", b"", None]
        times = source.held(3)[0].timestamp.tolist()
        assert times[0] > 0 and times[1] == -1
        source.drop(0, 1)
        assert source.lag()[0].seconds is None
        source.drop(0, 1)
        assert source.lag()[0].seconds is not None
    reader = open_reader(kafka_service.bootstrap_servers, Needs(reads=(name,)))
    records = list(records_between(reader, TopicPartition(name, 0), 0, 3))
    reader.close()
    assert records[0].headers == [("\ufffd\ufffd\ufffde", b"value"), ("null", None), ("", b"")]


def wrong_checksum(batch: bytearray) -> None:
    batch[-1] ^= 1


def endless_varint(batch: bytearray) -> None:
    batch[RECORDS + 1 : RECORDS + 12] = b"\x00" + b"\xff" * 10


def wrong_length(batch: bytearray) -> None:
    batch[RECORDS] ^= 0x20


def unknown_codec(batch: bytearray) -> None:
    batch[22] = batch[22] & ~7 | 6


def not_gzip(batch: bytearray) -> None:
    batch[22] = batch[22] & ~7 | 1


@pytest.mark.parametrize(
    ("change", "right_checksum", "reason"),
    [
        (wrong_checksum, False, "the checksum of its batch differs"),
        (endless_varint, True, "Out of int64 range"),
        (wrong_length, True, "the length of a record is wrong"),
        (unknown_codec, True, "compression type 6 is unknown"),
        (not_gzip, True, "gzip can't decompress it"),
    ],
)
def test_a_message_that_cant_be_read_is_named_and_can_be_passed_over(
    kafka_service: KafkaService,
    topic: TopicFactory,
    change: Change,
    right_checksum: bool,
    reason: str,
) -> None:
    name = topic(2)
    for value in (b"first", b"a message that will be damaged", b"last"):
        send_plain(kafka_service, name, 0, [value])
    send_plain(kafka_service, name, 1, [b"other"])
    damage(segment(kafka_service, name, 0), 1, change, right_checksum)
    with (
        RowSource(kafka_service.bootstrap_servers, name, name) as source,
        pytest.raises(SourceError, match=f"partition 0 .* offset 1 can't be read: {reason}"),
    ):
        read_all(source)
    with RowSource(kafka_service.bootstrap_servers, name, name, allow_loss=True) as source:
        read_all(source)
        held = source.held(10)[0]
        assert held.values == [b"first", None, b"last"]
        assert held.offset.tolist() == [0, 1, 2]
        assert held.unreadable[1].raw
        assert reason in held.unreadable[1].reason
        assert values_of(source, 1) == [b"other"]
        source.drop(0, 3)
        assert source.fetched_until() == {0: 3}


def test_what_even_the_broker_cant_read_is_named_and_can_be_passed_over(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name = topic(1)
    for value in (b"first", b"damaged", b"last"):
        send_plain(kafka_service, name, 0, [value])

    def no_length(batch: bytearray) -> None:
        batch[8:12] = b"\x00\x00\x00\x01"

    damage(segment(kafka_service, name, 0), 1, no_length, right_checksum=False)
    with (
        RowSource(kafka_service.bootstrap_servers, name, name) as source,
        pytest.raises(SourceError, match=r"partition 0 .* offset 1 can't be read"),
    ):
        read_all(source)
    with RowSource(kafka_service.bootstrap_servers, name, name, allow_loss=True) as source:
        read_all(source)
        assert values_of(source)[0] == b"first"
        assert source.fetched_until() == {} and exhausted(source)
