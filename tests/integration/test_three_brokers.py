"""Three brokers, each of which dies while all runs. ``make test-clusters`` runs these."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from examples.demo.script import Script
from examples.sample.rows import write_sample
from examples.services.common import wait_until
from examples.services.engine_service import EngineService
from src.cluster.topic import ensure_topic
from src.stream.position import Commit, Position
from src.stream.row_source import RowSource
from tests.integration.dead_letter_topics import values
from tests.integration.other_producers import poll_until, send_all
from tests.integration.pipeline import (
    BATCH_SIZE,
    LONG,
    DictionaryFiles,
    Pipeline,
    assert_stops,
    assert_trained_once,
    sample_files,
    wait_for,
)
from tests.integration.three_brokers import ThreeBrokers, three_brokers

pytestmark = pytest.mark.clusters

ROWS = 40_000  # more than are sent before the last broker is back
RATE = 75  # rows per second and partition
CONNECTED = re.compile(r"trainer session \d+: back to")
TRIES_AGAIN = re.compile(r"trying again: fewer replicas are in sync than min.insync.replicas")


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeBrokers]:
    with three_brokers(tmp_path_factory.mktemp("three")) as made:
        yield made


@pytest.fixture
def cluster(brokers: ThreeBrokers) -> ThreeBrokers:
    """The cluster, complete."""
    for broker in brokers.brokers.values():
        broker.start()
    return brokers


@pytest.mark.timeout(600)  # three brokers start three times: a minute when idle, four under load
def test_each_broker_is_killed_and_restarted_and_every_row_is_trained_once(
    cluster: ThreeBrokers, engine: EngineService, tmp_path: Path
) -> None:
    servers, topic = cluster.bootstrap_servers, "rows"
    ensure_topic(servers, topic, 2, 3)
    files = sample_files(tmp_path, ROWS, 2)
    with Pipeline(tmp_path, servers, DictionaryFiles.make(tmp_path), 2, topic) as pipeline:
        trainer = pipeline.trainer("--save_checkpoint_steps=5")
        consumer = pipeline.consumer("--window_size=200", "--window_seconds=0.5")
        wait_for(consumer, CONNECTED)
        producer = pipeline.producer(files, f"--rate={RATE}")
        assert wait_until(lambda: any(pipeline.committed().values()), LONG, 0.5), trainer.log()
        lost: set[str] = set()
        for node, broker in cluster.brokers.items():
            lost |= {duty for duty, by in cluster.duties(topic).items() if by == node}
            broker.kill()
            assert wait_until(partial(cluster.has_taken_over, topic, node), LONG, 0.5)
            assert_new_rows_are_committed(pipeline, trainer)
            broker.start()
            assert wait_until(lambda: cluster.is_in_sync(topic), LONG, 0.5)
        assert lost == {"partition 0", "partition 1", "coordinator", "controller"}

        assert_stops(producer, signal.SIGTERM, within=10)
        sent = ends(pipeline)
        for number, file in enumerate(files):
            lines = file.read_bytes().splitlines()
            assert values(servers, topic, number) == lines[: sent[number]]
        fill_last_batch(pipeline, sent)
        found = ends(pipeline)
        steps = rows_in(found) // BATCH_SIZE
        assert wait_until(lambda: len(pipeline.loss_lines) == steps, LONG, 0.2), trainer.log()
        assert_stops(trainer, signal.SIGTERM, within=10)
        assert_stops(consumer, signal.SIGTERM, within=10)
        assert_trained_once(pipeline.audit(), *found.values())
        assert pipeline.committed() == found


def assert_new_rows_are_committed(pipeline: Pipeline, trainer: Script) -> None:
    """Fails unless rows that come from now on are trained and committed, in both partitions."""
    before = ends(pipeline)

    def are_beyond() -> bool:
        reached = pipeline.committed()
        return all((reached[number] or 0) > end for number, end in before.items())

    assert wait_until(are_beyond, LONG, 0.5), trainer.log()


def fill_last_batch(pipeline: Pipeline, sent: dict[int, int]) -> None:
    """Sends rows until all make whole batches; the trainer waits for them."""
    with contextlib.closing(KafkaProducer(bootstrap_servers=pipeline.bootstrap_servers)) as tool:
        row = (pipeline.folder / "output1.tsv").read_bytes().splitlines()[0]
        send_all(tool, pipeline.topic, 0, [row] * (-rows_in(sent) % BATCH_SIZE))


def ends(pipeline: Pipeline) -> dict[int, int]:
    """Partition → how many rows it holds."""
    handles = [TopicPartition(pipeline.topic, number) for number in (0, 1)]
    servers = pipeline.bootstrap_servers
    with KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False) as tool:
        return {handle.partition: end for handle, end in tool.end_offsets(handles).items()}


def rows_in(position: dict[int, int]) -> int:
    """How many rows of the topic come before a position."""
    return sum(position.values())


def test_a_script_that_starts_while_the_leader_is_away_waits_for_the_next_one(
    cluster: ThreeBrokers,
) -> None:
    servers, topic = cluster.bootstrap_servers, "alone"
    ensure_topic(servers, topic, 1, 3)
    assert wait_until(lambda: cluster.is_in_sync(topic), LONG, 0.5)
    with contextlib.closing(KafkaProducer(bootstrap_servers=servers, acks="all")) as tool:
        send_all(tool, topic, 0, [b"row"] * 5)
    cluster.brokers[cluster.leader(topic)].kill()
    with RowSource(servers, topic, topic) as source:
        source.seek(Position({0: 0}))
        poll_until(source, lambda: source.waiting() == 5)
        source.commit(Commit(Position({0: 5}), 1))


def test_rows_that_too_few_replicas_take_are_retried_and_named(
    cluster: ThreeBrokers, tmp_path: Path
) -> None:
    servers, topic = cluster.bootstrap_servers, "strict"
    ensure_topic(servers, topic, 1, 3, configs={"min.insync.replicas": "3"})
    rows = tmp_path / "rows.tsv"
    write_sample([rows], 2_000)
    follower = next(node for node in cluster.brokers if node != cluster.leader(topic))
    cluster.brokers[follower].kill()
    assert wait_until(lambda: cluster.copies(topic) == 2, LONG, 0.2)
    flags = (f"--bootstrap_servers={servers}", f"--topic={topic}", f"--file1={rows}", "--file2=")
    script = Script("producer", flags, tmp_path / "producer.log", cwd=tmp_path)
    try:
        wait_for(script, TRIES_AGAIN)
        cluster.brokers[follower].start()
        assert script.wait(LONG) == 0, script.log()
    finally:
        script.stop()
    assert "produced 2000 rows" in script.log()
