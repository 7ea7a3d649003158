"""Half an hour at the highest rate this machine gives: memory stays flat and files stay bounded.

``make test-soak`` runs it; ``SOAK_MINUTES`` makes it longer or shorter, but memory is compared
with that of the fifth minute.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, TopicPartition

from examples.demo.script import Script
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from src.stream.row_source import RowSource
from tests.integration.crashes import step_reached
from tests.integration.pipeline import DictionaryFiles, Pipeline, assert_ends, sample_files

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
WARM_MINUTES = 5.0

pytestmark = [pytest.mark.soak, pytest.mark.timeout(60 * MINUTES + 600)]

BATCH_SIZE = 500
FILE_ROWS = 200_000
MOST_ROWS_AHEAD = 2 * FILE_ROWS
SAMPLE_SECONDS = 5.0
MAX_GROWTH = 0.02
MAX_ENGINE_LOG_BYTES = 50 << 20
ENGINE_LOGS = Path.home() / "mindpandas" / "log"
MAX_OWN_BYTES = 8 * (64 << 20)  # loss, audit and metrics files with those moved aside


@dataclass
class Memory:
    """Resident memory of a process over time, in bytes."""

    process: psutil.Process
    samples: list[tuple[float, int]] = field(default_factory=list)

    def sample(self, minutes: float) -> None:
        self.samples.append((minutes, self.process.memory_info().rss))

    def median(self, begin: float, end: float) -> float:
        """Of the minutes from begin to end."""
        return statistics.median(rss for at, rss in self.samples if begin <= at < end)

    def growth(self) -> float:
        """Growth from the two minutes after the fifth to the last two, as a share."""
        early = self.median(WARM_MINUTES, WARM_MINUTES + 2)
        return self.median(MINUTES - 2, MINUTES) / early - 1


class Feed:
    """Produces the same files again and again, never too far ahead, and deletes what was trained.

    Args:
        pipeline: Its topic is fed.
        files: One for each partition.
    """

    def __init__(self, pipeline: Pipeline, files: list[Path]) -> None:
        self._pipeline = pipeline
        self._files = files
        self._producer: Script | None = None
        self.produced = 0

    def update(self, trained: int) -> None:
        """Starts the next producer when it is time."""
        if self._producer is not None and self._producer.code is not None:
            assert self._producer.code == 0, self._producer.log()
            self._producer = None
        if self._producer is None and self.produced - trained < MOST_ROWS_AHEAD:
            self._producer = self._pipeline.producer(self._files)
            self.produced += FILE_ROWS

    def delete(self, bootstrap_servers: str) -> None:
        """Deletes the rows committed as trained: half an hour of them is many gigabytes."""
        with RowSource(bootstrap_servers, self._pipeline.topic, self._pipeline.name) as source:
            commit = source.committed()
        if commit is None:
            return
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=bootstrap_servers)) as admin:
            offsets = commit.position.offsets
            admin.delete_records(
                {TopicPartition(self._pipeline.topic, part): end for part, end in offsets.items()}
            )

    def finish(self) -> None:
        """Waits for the last producer."""
        if self._producer is not None:
            assert_ends(self._producer)


@pytest.fixture
def pipeline(
    tmp_path: Path, kafka_service: KafkaService, engine: EngineService
) -> Iterator[Pipeline]:
    made = DictionaryFiles.make(tmp_path)
    with Pipeline(tmp_path, kafka_service.bootstrap_servers, made, 2) as pipeline:
        yield pipeline


def test_memory_stays_flat_and_files_stay_bounded_at_the_highest_rate(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    feed = Feed(pipeline, sample_files(tmp_path, FILE_ROWS, 2))
    engine_logs = size_of(ENGINE_LOGS)
    consumer = pipeline.consumer("--window_size=10000", "--metrics_port=19801")
    trainer = pipeline.trainer(
        "--sparse",
        f"--batch_size={BATCH_SIZE}",
        "--metrics_port=19802",
        "--idle_seconds=60",
    )
    watched = [Memory(psutil.Process(script.process.pid)) for script in (consumer, trainer)]
    began = deleted = time.monotonic()
    while (minutes := (time.monotonic() - began) / 60) < MINUTES:
        assert consumer.code is None and trainer.code is None, consumer.log() + trainer.log()
        feed.update(step_reached(pipeline) * BATCH_SIZE)
        pipeline.loss_lines[:-1] = []
        for memory in watched:
            memory.sample(minutes)
        if time.monotonic() - deleted > 60:
            deleted = time.monotonic()
            feed.delete(pipeline.bootstrap_servers)
        time.sleep(SAMPLE_SECONDS)
    feed.finish()
    assert_ends(trainer, 60 * 5)  # it trains the last rows, and idles
    assert consumer.stop(signal.SIGTERM) == 0, consumer.log()
    growth = [memory.growth() for memory in watched]
    megabytes = [memory.median(MINUTES - 2, MINUTES) / 1e6 for memory in watched]
    logged = size_of(ENGINE_LOGS) - engine_logs
    print(  # pytest -s shows it
        f"{feed.produced} rows in {MINUTES:g} minutes; consumer {megabytes[0]:.0f} MB, "
        f"{100 * growth[0]:+.2f} %; trainer {megabytes[1]:.0f} MB, {100 * growth[1]:+.2f} %; "
        f"engine logs {logged / 1e6:+.1f} MB"
    )
    assert step_reached(pipeline) == feed.produced // BATCH_SIZE
    assert max(growth) < MAX_GROWTH
    assert logged < MAX_ENGINE_LOG_BYTES
    own = sum(size_of(path) for path in tmp_path.iterdir() if path.suffix != ".tsv")
    assert own < MAX_OWN_BYTES


def size_of(path: Path) -> int:
    """Bytes in a file or in all files of a folder; what vanishes meanwhile does not count."""
    total = 0
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        with contextlib.suppress(FileNotFoundError):
            total += each.lstat().st_size if each.is_file() else 0
    return total
