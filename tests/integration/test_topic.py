"""kafka_client.py and the topic against a real broker."""

from __future__ import annotations

import time
import uuid

import pytest
from kafka import KafkaConsumer

import kafka_client
from examples.services.kafka_service import KafkaService
from src.cluster.topic import TopicError, ensure_topic
from src.process.ports import free_port


def partitions(service: KafkaService, topic: str) -> int:
    consumer = KafkaConsumer(bootstrap_servers=service.bootstrap_servers)
    found = len(consumer.partitions_for_topic(topic))
    consumer.close()
    return found


def test_a_topic_is_created_kept_grown_and_never_shrunk(kafka_service: KafkaService) -> None:
    topic = f"topic_{uuid.uuid4().hex[:8]}"
    address = kafka_service.bootstrap_servers
    for wanted, there in ((2, 2), (2, 2), (3, 3), (1, 3)):
        assert ensure_topic(address, topic, wanted, 1) == there
        assert partitions(kafka_service, topic) == there


def test_the_script_creates_the_topic_and_run_again_finds_it(kafka_service: KafkaService) -> None:
    topic = f"topic_{uuid.uuid4().hex[:8]}"
    flags = [f"--bootstrap_servers={kafka_service.bootstrap_servers}", f"--topic={topic}"]
    assert kafka_client.main(flags) == 0
    assert kafka_client.main(flags) == 0
    assert partitions(kafka_service, topic) == 2


def test_an_unreachable_broker_is_named_within_15_seconds() -> None:
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(TopicError, match=f"no broker answers at {address}") as caught:
        ensure_topic(address, "rows", 2, 1)
    assert time.monotonic() - began < 15
    assert "\n" not in str(caught.value)


def test_a_malformed_address_is_one_line() -> None:
    with pytest.raises(TopicError, match="localhost:port"):
        ensure_topic("localhost:port", "rows", 2, 1)


@pytest.mark.parametrize(
    ("topic", "replication_factor", "reason"),
    [("no such/name", 1, "Topic name is invalid"), ("copies", 3, "only 1 broker")],
)
def test_what_the_broker_refuses_is_said_in_its_words(
    kafka_service: KafkaService, topic: str, replication_factor: int, reason: str
) -> None:
    with pytest.raises(TopicError, match=reason) as caught:
        ensure_topic(kafka_service.bootstrap_servers, topic, 2, replication_factor)
    assert "Request" not in str(caught.value)
