"""A topic that is made anew, a group with other members, and offsets that hold no row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from examples.services.kafka_service import KafkaService
from src.cluster import topic_identity
from src.cluster.broker import SourceError
from src.cluster.group_members import ForeignMember
from src.cluster.topic import ensure_topic
from src.cluster.topic_identity import OtherTopic
from src.consumer.session_follower import starting_commit
from src.stream.position import Commit, Position
from src.stream.row_source import RowSource
from src.stream.topic_group import TopicGroup
from src.trainer.session import TrainerSession
from tests.integration.conftest import TopicFactory
from tests.integration.other_producers import exhausted, poll_until, send_plain

PATIENCE = 60.0


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


@contextmanager
def admin_of(service: KafkaService) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=service.bootstrap_servers)
    try:
        yield admin
    finally:
        admin.close()


def make_anew(service: KafkaService, name: str, num_partitions: int) -> None:
    with admin_of(service) as admin:
        admin.delete_topics([name])
        until(lambda: name not in admin.list_topics())
    ensure_topic(service.bootstrap_servers, name, num_partitions, 1)


@contextmanager
def subscribed(service: KafkaService, topic: str, group: str) -> Iterator[KafkaConsumer]:
    """A program that is a live member of a group."""
    member = KafkaConsumer(
        topic,
        bootstrap_servers=service.bootstrap_servers,
        group_id=group,
        client_id="somebody-else",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        # It joins within a poll. On a busy machine a tenth of a second may be too short for that.
        until(lambda: bool(member.poll(2_000) or member.assignment()))
        yield member
    finally:
        member.close()


def test_a_topic_made_anew_is_told_from_the_one_that_was_read(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name, address = topic(1), kafka_service.bootstrap_servers
    send_plain(kafka_service, name, 0, [b"old"] * 3)
    with RowSource(address, name, name) as source, TopicGroup(address, name, name) as group:
        source.seek(Position({0: 0}))
        poll_until(source, lambda: exhausted(source))
        old = Commit(Position({0: 2}, 0), 5)
        source.commit(old)
        assert source.committed() == Commit(Position({0: 2}, 0), 5, topic_id=source.topic_id)
        assert group.check_topic()
        make_anew(kafka_service, name, 1)
        send_plain(kafka_service, name, 0, [b"new"] * 9)  # beyond the old position
        with pytest.raises(OtherTopic, match="was deleted and made anew while it was in use"):
            poll_until(source, lambda: source.waiting() > 3)
        assert source.held(100)[0].values == [b"old"] * 3
        with pytest.raises(OtherTopic, match=f"its id was {group.topic_id}"):
            group.check_topic()
    with TopicGroup(address, name, name) as later:
        assert later.check_topic()
        later.expect_topic(group.topic_id)
        with pytest.raises(OtherTopic, match=f"its id was {group.topic_id}"):
            later.check_topic()
    # Kafka forgets the commits of a deleted topic. Other tools bring them back.
    with RowSource(address, name, name) as source:
        assert source.committed() is None
        assert source.is_of_other_topic(group.topic_id)
        source._commits.write(Commit(Position({0: 2}, 0), 5, topic_id=group.topic_id))
        with pytest.raises(OtherTopic, match="--start earliest begins with this one"):
            starting_commit(source, "committed")
        assert starting_commit(source, "earliest").position == Position({0: 0})


def test_a_topic_that_is_deleted_is_named(
    kafka_service: KafkaService, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_identity, "MISSING_SECONDS", 1.0)
    name = topic(1)
    with RowSource(kafka_service.bootstrap_servers, name, name) as source:
        source.seek(Position({0: 0}))
        with admin_of(kafka_service) as admin:
            admin.delete_topics([name])
        with pytest.raises(OtherTopic, match=f"topic {name} was deleted while it was in use"):
            poll_until(source, lambda: False)


def test_other_members_of_the_group_are_named(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name, address = topic(1), kafka_service.bootstrap_servers
    text = f"group {name} has other members: somebody-else at 127.0.0.1; .* --group_id"
    with RowSource(address, name, name) as source:
        first = starting_commit(source, "committed")
        with subscribed(kafka_service, name, name):
            with pytest.raises(ForeignMember, match=text):
                starting_commit(source, "committed")
            began = time.monotonic()
            with pytest.raises(SourceError, match=text):
                TrainerSession(source, lambda _: source, first.position)
            assert time.monotonic() - began < 5
            assert not source.try_commit(first)
        source.refuse_members()
        assert source.try_commit(first)


def test_what_holds_no_row_is_covered_and_may_then_be_deleted(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name, address = topic(2), kafka_service.bootstrap_servers
    send_plain(kafka_service, name, 0, [b"row"] * 5 + [b"bad"] * 3)
    with TopicGroup(address, name, name) as trainer, RowSource(address, name, name) as source:
        source.commit(Commit(Position({0: 0, 1: 0}), 0))
        session = TrainerSession(trainer, lambda _: trainer, Position({0: 0, 1: 0}))
        session.commit(Position({0: 4, 1: 0}, 0))
        assert source.try_publish_empty({0: (5, 8)})
        session.cover(trainer, trainer.try_read_empty())
        committed = trainer.last_commit()
        assert committed is not None and committed.position.reached == {0: 4, 1: 0}  # one is left
        session.commit(Position({0: 5, 1: 0}, 0))
        with KafkaConsumer(bootstrap_servers=address, group_id=name) as tool:
            assert tool.committed(TopicPartition(name, 0)) == 8  # Kafka's own tools see no lag
        with admin_of(kafka_service) as admin:
            admin.delete_records({TopicPartition(name, 0): 8})
    with RowSource(address, name, name) as source:
        commit = starting_commit(source, "committed")
        assert commit.position == Position({0: 5, 1: 0}, 0, {0: 8})
        assert commit.session == session.number
        source.seek(commit.position)
        send_plain(kafka_service, name, 0, [b"next"])
        poll_until(source, lambda: source.waiting() == 1)
        assert source.held(9)[0].offset.tolist() == [8]


def test_the_consumers_word_is_enough_while_no_trainer_runs(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name, address = topic(1), kafka_service.bootstrap_servers
    send_plain(kafka_service, name, 0, [b"row"] * 2 + [b"bad"] * 3)
    with RowSource(address, name, name) as source:
        source.commit(Commit(Position({0: 2}, 0), 5))
        assert source.try_publish_empty({0: (2, 5)})
    with admin_of(kafka_service) as admin:
        admin.delete_records({TopicPartition(name, 0): 5})
    with RowSource(address, name, name) as source:
        assert starting_commit(source, "committed").position == Position({0: 2}, 0, {0: 5})


def test_first_rows_of_a_partition_added_meanwhile_are_lost_not_passed_over(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name, address = topic(1), kafka_service.bootstrap_servers
    with RowSource(address, name, name) as source:
        source.commit(Commit(Position({0: 0}), 5))
    ensure_topic(address, name, 2, 1)
    send_plain(kafka_service, name, 1, [b"row"] * 9)
    with admin_of(kafka_service) as admin:
        admin.delete_records({TopicPartition(name, 1): 4})
    with (
        RowSource(address, name, name) as source,
        pytest.raises(SourceError, match="partition 1 .*: 4 rows from offset 0 on are deleted"),
    ):
        starting_commit(source, "committed")
    with RowSource(address, name, name, allow_loss=True) as source:
        source.seek(starting_commit(source, "committed").position)
        poll_until(source, lambda: exhausted(source))
        assert source.held(100)[1].offset.tolist() == [4, 5, 6, 7, 8]


def test_a_commit_of_other_tools_is_taken_as_it_is(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    name, address = topic(2), kafka_service.bootstrap_servers
    send_plain(kafka_service, name, 0, [b"row"] * 5)
    with RowSource(address, name, name) as source:
        source.commit(Commit(Position({0: 3, 1: 0}, 0, {0: 4}), 5))
        with admin_of(kafka_service) as admin:
            handle = TopicPartition(name, 0)
            admin.alter_group_offsets(name, {handle: OffsetAndMetadata(1, "", -1)})
            assert source.committed() == Commit(Position({0: 1, 1: 0}), 0)
            admin.alter_group_offsets(name, {handle: OffsetAndMetadata(2, "{not ours", -1)})
            assert source.committed() == Commit(Position({0: 2, 1: 0}), 0)
            admin.delete_groups([name])
            assert source.committed() is None
