"""Topics from which the broker removes each row that has a newer one with the same key."""

from __future__ import annotations

from collections.abc import Iterable

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from examples.services.common import wait_until
from examples.services.kafka_service import KafkaService
from src.stream.position import Commit, Position
from src.stream.row_source import RowSource
from src.trainer.session import TrainerSession
from tests.integration.conftest import TopicFactory
from tests.integration.other_producers import exhausted, poll_until, transactional

COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "1",  # all but the last message may be compacted
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "0",
}
Keyed = tuple[str, bytes]


def compact_often(service: KafkaService) -> None:
    """Has a broker look all the time for what it can compact."""
    admin = KafkaAdminClient(bootstrap_servers=service.bootstrap_servers)
    often = {"log.cleaner.backoff.ms": "100"}
    admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", often)])
    admin.close()


def send_keyed(producer: KafkaProducer, topic: str, rows: Iterable[Keyed]) -> None:
    """Sends rows in batches of five, so that some batches lose all their rows and others a few."""
    for number, (key, value) in enumerate(rows, 1):
        producer.send(topic, value, key=key.encode(), partition=0)
        if number % 5 == 0:
            producer.flush(30)
    producer.flush(30)


def rows_with(keys: Iterable[object], begin: int) -> list[Keyed]:
    """Rows with these keys; their values count from ``begin``, as their offsets do."""
    return [(f"{key}", b"%d" % number) for number, key in enumerate(keys, begin)]


def offsets_left(service: KafkaService, topic: str) -> list[int]:
    """What an ordinary consumer finds in partition 0."""
    handle, found = TopicPartition(topic, 0), list[int]()
    with KafkaConsumer(
        bootstrap_servers=service.bootstrap_servers,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        enable_auto_commit=False,
    ) as tool:
        tool.assign([handle])
        end = tool.end_offsets([handle])[handle]
        while tool.position(handle) < end:
            found += [record.offset for record in tool.poll(100).get(handle, [])]
    return found


def wait_for_offsets(service: KafkaService, topic: str, wanted: list[int]) -> None:
    """Waits until the broker has removed all other rows."""
    assert wait_until(lambda: offsets_left(service, topic) == wanted, 60, 0.2), offsets_left(
        service, topic
    )


def test_rows_that_are_compacted_are_no_loss_and_the_position_covers_them(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name, address = topic(1, COMPACTED), kafka_service.bootstrap_servers
    compact_often(kafka_service)
    with KafkaProducer(bootstrap_servers=address, enable_idempotence=True, acks="all") as tool:
        send_keyed(tool, name, rows_with([*range(10)] * 2, 0))
        with RowSource(address, name, name) as source:
            source.seek(Position({0: 0}))
            poll_until(source, lambda: source.waiting() > 0)
            source.commit(Commit(Position({0: 5}), 1))  # a trainer has stopped here
        send_keyed(tool, name, rows_with("abcdefghij", 20))
        send_keyed(tool, name, rows_with([*range(10)] * 3, 30))
        send_keyed(tool, name, rows_with(["last"], 60))
    left = [*range(20, 30), *range(50, 61)]
    wait_for_offsets(kafka_service, name, left)

    with RowSource(address, name, name) as source:
        position = source.resolve_start("committed")
        assert position == Position({0: 5})
        for begin in (position, Position({0: 0}), Position({0: 20}), Position({0: 33})):
            source.seek(begin)
            poll_until(source, lambda: exhausted(source))
            (held,) = source.held(100)
            wanted = [offset for offset in left if offset >= begin.offsets[0]]
            assert held.offset.tolist() == wanted
            assert held.values == [b"%d" % offset for offset in wanted]
            assert source.lag()[0].rows == 61 - wanted[0]
            source.drop(0, len(wanted))
            assert source.lag()[0].rows == 0
            assert source.fetched_until() == {0: 61}


def test_a_stream_that_ends_in_compacted_transactions_is_read_to_its_end(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name, address = topic(1, COMPACTED), kafka_service.bootstrap_servers
    compact_often(kafka_service)
    producer = transactional(kafka_service, name)
    for number, ending in enumerate(
        [
            producer.commit_transaction,
            producer.abort_transaction,
            producer.commit_transaction,
            producer.abort_transaction,
            producer.abort_transaction,
        ]
    ):
        producer.begin_transaction()
        send_keyed(producer, name, rows_with(range(10), 11 * number))
        ending()
    producer.close()
    wait_for_offsets(kafka_service, name, [*range(22, 32)])
    with RowSource(address, name, name) as source:
        source.commit(Commit(Position({0: 3}), 1))
        session = TrainerSession(source, lambda _: source, Position({0: 3}))
        source.seek(source.resolve_start("committed"))
        poll_until(source, lambda: exhausted(source))
        (held,) = source.held(100)
        assert held.offset.tolist() == [*range(22, 32)]
        source.drop(0, 10)
        assert source.lag()[0].rows == 0
        session.commit(Position({0: 32}))
        session.cover(source, {0: (32, source.fetched_until()[0])})
        committed = source.committed()
        assert committed is not None and committed.position.reached == {0: 55}
