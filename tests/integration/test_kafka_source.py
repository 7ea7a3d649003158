"""The rows of a real topic: read, held, committed, and a broker that dies and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from examples.services.kafka_service import KafkaService
from src.cluster.broker import SourceError
from src.cluster.topic import ensure_topic
from src.process.ports import free_port
from src.stream.position import Commit, Position
from src.stream.row_source import RowSource
from tests.integration.conftest import TopicFactory

PATIENCE = 60.0
# Times of a moment ago: older rows would fall to the broker's retention.
FIRST_TIME = datetime.fromtimestamp(int(time.time()) - 3600, timezone.utc)
FIRST_MS = int(FIRST_TIME.timestamp()) * 1000


def send(service: KafkaService, topic: str, partition: int, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=service.bootstrap_servers, acks="all")
    for number, value in enumerate(values):
        producer.send(topic, value, partition=partition, timestamp_ms=FIRST_MS + 1000 * number)
    producer.flush(30)
    producer.close()


def poll_until(source: RowSource, condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at
        source.poll(0.1)


def exhausted(source: RowSource) -> bool:
    return all(held.exhausted for held in source.held(1_000_000))


def numbers(begin: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(begin, end)]


def test_every_row_is_read_once_in_order_and_an_empty_partition_counts_as_exhausted(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name = topic(3)
    send(kafka_service, name, 0, numbers(0, 25_000))
    send(kafka_service, name, 2, numbers(0, 10))
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        assert source.partitions == [0, 1, 2]
        assert source.committed() is None
        source.seek(source.resolve_start("committed"))
        poll_until(source, lambda: exhausted(source))
        first, second, third = source.held(1_000_000)
        assert first.values == numbers(0, 25_000)
        assert first.offset.tolist() == list(range(25_000))
        assert (second.values, third.values) == ([], numbers(0, 10))
        assert third.timestamp.tolist() == [FIRST_MS + 1000 * number for number in range(10)]


def test_rows_that_arrive_later_end_the_exhaustion_and_a_seek_reads_again(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name = topic(1)
    send(kafka_service, name, 0, numbers(0, 5))
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        source.seek(Position({0: 0}))
        poll_until(source, lambda: exhausted(source))
        source.drop(0, 5)
        send(kafka_service, name, 0, numbers(5, 8))
        source.seek(Position({0: 5}))
        assert not exhausted(source)
        poll_until(source, lambda: exhausted(source))
        assert source.held(100)[0].values == numbers(5, 8)
        source.seek(Position({0: 2}))
        assert source.waiting() == 0
        poll_until(source, lambda: exhausted(source))
        assert source.held(100)[0].values == numbers(2, 8)


def test_a_commit_comes_back_with_its_session_and_leaves_other_groups_alone(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name = topic(2)
    send(kafka_service, name, 0, numbers(0, 9))
    commit = Commit(Position({0: 7, 1: 0}, last_partition=1), session=1234567890123)
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        source.commit(commit)
        assert source.committed() == replace(commit, topic_id=source.topic_id)
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        assert source.committed() == replace(commit, topic_id=source.topic_id)
        assert source.resolve_start("committed").offsets == {0: 7, 1: 0}
    with RowSource(kafka_service.bootstrap_servers, name, f"{name}_other") as source:
        assert source.committed() is None


def test_a_partition_added_after_the_commit_starts_at_its_beginning(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name = topic(1)
    send(kafka_service, name, 0, numbers(0, 4))
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        source.commit(Commit(Position({0: 3}, 0), 5))
    ensure_topic(kafka_service.bootstrap_servers, name, 2, 1)
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        expected = Commit(Position({0: 3, 1: 0}, 0), 5, topic_id=source.topic_id)
        assert source.committed() == expected


def test_a_time_starts_at_the_first_row_not_before_it(
    kafka_service: KafkaService, topic: TopicFactory, caplog: pytest.LogCaptureFixture
) -> None:
    name = topic(2)
    send(kafka_service, name, 0, numbers(0, 5))
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        third = FIRST_TIME + timedelta(seconds=2)
        assert source.resolve_start(third.isoformat()).offsets == {0: 2, 1: 0}
        between = (third - timedelta(seconds=0.5)).astimezone(timezone(timedelta(hours=1)))
        assert source.resolve_start(between.isoformat()).offsets == {0: 2, 1: 0}
        without_zone = third.replace(tzinfo=None).isoformat()
        assert source.resolve_start(without_zone).offsets == {0: 2, 1: 0}
        assert source.resolve_start("2100-01-01").offsets == {0: 5, 1: 0}
        assert "--start 2100-01-01 lies in the future" in caplog.text


def test_rows_that_are_deleted_already_are_counted_unless_loss_is_allowed(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name = topic(1)
    send(kafka_service, name, 0, numbers(0, 10))
    admin = KafkaAdminClient(bootstrap_servers=kafka_service.bootstrap_servers)
    admin.delete_records({TopicPartition(name, 0): 6})
    admin.close()
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        source.commit(Commit(Position({0: 4}), 1))
        with pytest.raises(SourceError, match="2 rows from offset 4 on are deleted"):
            source.resolve_start("committed")
    with RowSource(kafka_service.bootstrap_servers, name, name, allow_loss=True) as source:
        source.seek(source.resolve_start("committed"))
        poll_until(source, lambda: exhausted(source))
        assert source.held(100)[0].values == numbers(6, 10)


def test_a_missing_topic_is_named_and_not_created(kafka_service: KafkaService) -> None:
    for _ in range(2):
        with pytest.raises(SourceError, match="there is no topic absent"):
            RowSource(kafka_service.bootstrap_servers, "absent", "group", 3)


def test_a_missing_broker_is_named() -> None:
    with pytest.raises(SourceError, match="no broker answers"):
        RowSource(f"127.0.0.1:{free_port()}", "rows", "group", 3)


def test_a_broker_that_dies_is_waited_for_and_reading_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    with KafkaService(tmp_path, free_port()) as service:
        address = service.bootstrap_servers
        ensure_topic(address, "rows", 1, 1)
        send(service, "rows", 0, numbers(0, 5))
        with RowSource(address, "rows", "group", PATIENCE) as source:
            source.seek(Position({0: 0}))
            poll_until(source, lambda: source.waiting() == 5)
            source.commit(Commit(Position({0: 2}, 0), 8))
            service.kill()
            away_until = time.monotonic() + 2
            while time.monotonic() < away_until:
                source.poll(0.1)
            service.start()
            send(service, "rows", 0, numbers(5, 9))
            poll_until(source, lambda: source.waiting() == 9)
            assert source.held(100)[0].values == numbers(0, 9)
            expected = Commit(Position({0: 2}, 0), 8, topic_id=source.topic_id)
            assert source.committed() == expected

        with RowSource(address, "rows", "group", reconnect_seconds=1) as source:
            source.seek(Position({0: 9}))
            service.kill()
            began = time.monotonic()
            with pytest.raises(SourceError, match="has been away"):
                while time.monotonic() < began + PATIENCE:
                    source.poll(0.1)
            assert not source.try_commit(Commit(Position({0: 3}, 0), 9))
            with pytest.raises(SourceError, match="committing the position"):
                source.commit(Commit(Position({0: 3}, 0), 9))
