"""A live member of the group that speaks Kafka's newer group protocol (KIP-848)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.services.kafka_service import JVM_OPTIONS, KafkaService
from src.cluster.group_members import ForeignMember
from src.cluster.topic import ensure_topic
from src.consumer.session_follower import starting_commit
from src.process.child_processes import ended_with_parent
from src.process.ports import free_port
from src.stream.row_source import RowSource

PATIENCE = 60.0
GROUP, TOPIC = "newer", "rows"

pytestmark = pytest.mark.clusters


@pytest.fixture
def service(tmp_path: Path) -> Iterator[KafkaService]:
    newer = {"group.coordinator.rebalance.protocols": "classic,consumer"}
    with KafkaService(tmp_path / "kafka", free_port(), properties=newer) as running:
        yield running


@contextmanager
def joined(service: KafkaService, folder: Path) -> Iterator[None]:
    """Kafka's own MirrorMaker as a member of the group; its topic stays empty."""
    server = f"bootstrap.servers={service.bootstrap_servers}\n"
    (folder / "consumer").write_text(f"{server}group.id={GROUP}\ngroup.protocol=consumer\n")
    (folder / "producer").write_text(server)
    flags = ("--consumer.config", "consumer", "--producer.config", "producer", "--include", TOPIC)
    tool = ("-cp", f"{service.jars_dir.resolve()}/*", "kafka.tools.MirrorMaker", *flags)
    process = subprocess.Popen(
        ["java", *JVM_OPTIONS, *tool],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=ended_with_parent(),
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_member_of_the_newer_protocol_is_named(service: KafkaService, tmp_path: Path) -> None:
    ensure_topic(service.bootstrap_servers, TOPIC, 1, 1)
    with RowSource(service.bootstrap_servers, TOPIC, GROUP) as source:
        first = starting_commit(source, "committed")
        with joined(service, tmp_path):
            give_up_at = time.monotonic() + PATIENCE
            while source.try_commit(first):
                assert time.monotonic() < give_up_at
                time.sleep(0.5)
            text = f"group {GROUP} has other members: {GROUP}-0 at 127.0.0.1; .* --group_id"
            with pytest.raises(ForeignMember, match=text):
                starting_commit(source, "committed")
