"""Half an hour at the highest rate this machine gives: memory stays flat and files stay bounded.

``make test-soak`` runs it; ``SOAK_MINUTES`` makes it longer or shorter. Growth is the slope of a
straight line through the samples of a process's resident memory, in MB per million rows trained.
The samples of the first minutes are left out: caches and heaps fill up in them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from kafka import KafkaAdminClient, TopicPartition

from examples.demo.script import Script
from examples.services.engine_service import EngineService, engine_processes
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
REPORT_SECONDS = 600.0
MAX_GROWTH = 0.2  # MB per million rows
# Kafka removes whole segments of 1 GiB. In each of two partitions one is written, and one may wait
# to be removed.
MAX_KAFKA_BYTES = 2 * 2 << 30
MAX_ENGINE_LOG_BYTES = 50 << 20
ENGINE_LOGS = Path.home() / "mindpandas" / "log"
MAX_OWN_BYTES = 8 * (64 << 20)  # loss, audit and metrics files with those moved aside


class Memory:
    """Resident memory of some processes over the rows trained.

    Args:
        name: What the processes are, for the output.
        processes: Their memory is added up.
        is_bounded: Whether it must stay flat; else it is printed only.
    """

    def __init__(self, name: str, processes: list[psutil.Process], is_bounded: bool) -> None:
        self.name = name
        self.is_bounded = is_bounded
        self._processes = processes
        self._samples: list[tuple[float, float]] = []

    def sample(self, rows: int) -> None:
        """Adds a sample."""
        resident = 0
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                resident += process.memory_info().rss
        self._samples.append((rows / 1e6, resident / 1e6))

    @property
    def megabytes(self) -> float:
        """The newest sample."""
        return self._samples[-1][1]

    def growth(self) -> float:
        """MB per million rows."""
        millions, megabytes = np.array(self._samples).T
        return float(np.polyfit(millions, megabytes, 1)[0])

    def described(self, rows_per_day: float) -> str:
        """One line, with what the line through the samples predicts for a day."""
        growth = self.growth()
        return (
            f"{self.name}: {self.megabytes:.0f} MB, {growth:+.3f} MB per million rows, "
            f"{growth * rows_per_day / 1e6:+.0f} MB a day at this rate"
        )


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
    pipeline: Pipeline, kafka_service: KafkaService, tmp_path: Path
) -> None:
    feed = Feed(pipeline, sample_files(tmp_path, FILE_ROWS, 2))
    engine_logs = size_of(ENGINE_LOGS)
    consumer = pipeline.consumer("--window_size=10000", "--metrics_port=19801")
    trainer = pipeline.trainer(
        "--sparse",
        f"--batch_size={BATCH_SIZE}",
        "--metrics_port=19802",
        "--idle_seconds=120",
    )
    watched = watched_processes(consumer, trainer, kafka_service)
    kafka_bytes = []
    began = deleted = reported = time.monotonic()
    while (minutes := (time.monotonic() - began) / 60) < MINUTES:
        assert consumer.code is None and trainer.code is None, consumer.log() + trainer.log()
        rows = step_reached(pipeline) * BATCH_SIZE
        feed.update(rows)
        pipeline.loss_lines[:-1] = []
        if minutes >= WARM_MINUTES:
            kafka_bytes.append(size_of(kafka_service.data_dir))
            for memory in watched:
                memory.sample(rows)
        if time.monotonic() - deleted > 60:
            deleted = time.monotonic()
            feed.delete(pipeline.bootstrap_servers)
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            report(watched, rows, minutes)
        time.sleep(SAMPLE_SECONDS)
    feed.finish()
    assert_ends(trainer, 60 * 5)  # it trains the last rows, and idles
    assert consumer.stop(signal.SIGTERM) == 0, consumer.log()
    logged = size_of(ENGINE_LOGS) - engine_logs
    report(watched, feed.produced, MINUTES)
    print(
        f"engine logs {logged / 1e6:+.1f} MB; Kafka's files at most {max(kafka_bytes) / 1e6:.0f} MB"
    )
    assert step_reached(pipeline) == feed.produced // BATCH_SIZE
    assert all(memory.growth() < MAX_GROWTH for memory in watched if memory.is_bounded)
    assert logged < MAX_ENGINE_LOG_BYTES
    assert max(kafka_bytes) < MAX_KAFKA_BYTES
    own = sum(size_of(path) for path in tmp_path.iterdir() if path.suffix != ".tsv")
    assert own < MAX_OWN_BYTES


def report(watched: list[Memory], rows: int, minutes: float) -> None:
    """Prints what the samples say up to now; ``pytest -s`` shows it."""
    print(f"{rows:,} rows in {minutes:.0f} minutes")
    for memory in watched:
        print(f"  {memory.described(rows / minutes * 60 * 24)}", flush=True)


def watched_processes(consumer: Script, trainer: Script, kafka: KafkaService) -> list[Memory]:
    """Ours must stay flat. A Java heap grows to its limit, and the engine spills by its own."""
    return [
        Memory("consumer", [psutil.Process(consumer.process.pid)], is_bounded=True),
        Memory("trainer", [psutil.Process(trainer.process.pid)], is_bounded=True),
        Memory("yr engine", engine_processes(), is_bounded=False),
        Memory("Kafka", kafka_processes(kafka), is_bounded=False),
    ]


def kafka_processes(kafka: KafkaService) -> list[psutil.Process]:
    """The broker's process, which has its configuration in its command line."""
    folder = str(kafka.data_dir)
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(folder in argument for argument in process.info["cmdline"] or ())
    ]


def size_of(path: Path) -> int:
    """Bytes in a file or in all files of a folder; what vanishes meanwhile does not count."""
    total = 0
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        with contextlib.suppress(FileNotFoundError):
            total += each.lstat().st_size if each.is_file() else 0
    return total
