"""Three brokers, one of which dies while all runs. ``make test-clusters`` runs these."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo.script import Script
from examples.sample.rows import write_sample
from examples.services.common import wait_until
from examples.services.engine_service import EngineService
from src.cluster.topic import ensure_topic
from tests.integration.pipeline import (
    BATCH_SIZE,
    LONG,
    DictionaryFiles,
    Pipeline,
    assert_ends,
    assert_stops,
    assert_trained_once,
    sample_files,
    wait_for,
)
from tests.integration.three_brokers import ThreeBrokers, three_brokers

pytestmark = pytest.mark.clusters

ROWS = 6_000
RATE = 75  # rows per second and partition, so that all runs for forty seconds
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


def test_a_broker_is_killed_and_restarted_and_every_row_is_trained_once(
    cluster: ThreeBrokers, engine: EngineService, tmp_path: Path
) -> None:
    servers, topic = cluster.bootstrap_servers, "rows"
    ensure_topic(servers, topic, 2, 3)
    files = sample_files(tmp_path, ROWS, 2)
    steps = ROWS // BATCH_SIZE
    with Pipeline(tmp_path, servers, DictionaryFiles.make(tmp_path), 2, topic) as pipeline:
        trainer = pipeline.trainer(f"--max_steps={steps}", "--save_checkpoint_steps=10")
        consumer = pipeline.consumer("--window_size=200", "--window_seconds=0.5")
        wait_for(consumer, CONNECTED)
        producer = pipeline.producer(files, f"--rate={RATE}")
        assert wait_until(lambda: len(pipeline.loss_lines) > 5, LONG), pipeline.last_log()
        killed = cluster.brokers[cluster.leader(topic)]
        trained = len(pipeline.loss_lines)
        killed.kill()
        assert wait_until(lambda: len(pipeline.loss_lines) > trained + 5, LONG)
        killed.start()
        assert_ends(producer)
        assert_ends(trainer)
        assert_stops(consumer, 15, within=10)
        assert_trained_once(pipeline.audit(), ROWS // 2, ROWS // 2)


def test_rows_that_too_few_replicas_take_are_retried_and_named(
    cluster: ThreeBrokers, tmp_path: Path
) -> None:
    servers, topic = cluster.bootstrap_servers, "strict"
    ensure_topic(servers, topic, 1, 3, configs={"min.insync.replicas": "3"})
    rows = tmp_path / "rows.tsv"
    write_sample([rows], 2_000)
    follower = next(node for node in cluster.brokers if node != cluster.leader(topic))
    cluster.brokers[follower].kill()
    time.sleep(6)  # until the cluster has noticed: broker.session.timeout.ms
    flags = (f"--bootstrap_servers={servers}", f"--topic={topic}", f"--file1={rows}", "--file2=")
    script = Script("producer", flags, tmp_path / "producer.log", cwd=tmp_path)
    try:
        wait_for(script, TRIES_AGAIN)
        cluster.brokers[follower].start()
        assert script.wait(LONG) == 0, script.log()
    finally:
        script.stop()
    assert "produced 2000 rows" in script.log()
