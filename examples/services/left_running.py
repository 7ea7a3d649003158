"""Both services as the command line handles them: left running, and recorded in files."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import psutil

from examples.services.common import ProcessId
from examples.services.engine_service import (
    EngineService,
    engine_is_running,
    engine_processes,
    stop_engine,
)
from examples.services.kafka_service import KAFKA_STOP_TIMEOUT, KafkaService, broker_answers

logger = logging.getLogger(__name__)


class StartedRecord:
    """A file that names the processes that `up` started, so that `down` stops no others."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, pids: Sequence[int]) -> None:
        """Records running processes."""
        self.path.write_text(json.dumps([ProcessId.of(pid) for pid in pids]))

    def processes(self) -> list[psutil.Process]:
        """Returns the recorded processes that still run."""
        if not self.path.exists():
            return []
        recorded = (ProcessId(*fields) for fields in json.loads(self.path.read_text()))
        return [process for process in (each.process() for each in recorded) if process]

    def clear(self) -> None:
        """Removes the record."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


class LocalServices:
    """Both services as the command line handles them: left running, and recorded in files.

    Args:
        data_dir: folder of Kafka's data and of the records.
        kafka_port: the broker's port.
        address: the engine's address.
    """

    def __init__(self, data_dir: Path, kafka_port: int, address: str) -> None:
        self.kafka = KafkaService(data_dir, kafka_port, detached=True)
        self.engine = EngineService(address, detached=True)
        self._kafka_record = StartedRecord(self.kafka.data_dir / "kafka.started.json")
        self._engine_record = StartedRecord(self.kafka.data_dir / "engine.started.json")

    def up(self) -> None:
        """Starts what is not running and leaves it running."""
        self.kafka.data_dir.mkdir(parents=True, exist_ok=True)
        self.kafka.start()
        if self.kafka.pid is not None:
            self._kafka_record.write([self.kafka.pid])
        self.engine.start()
        if self.engine.started_here:
            self._engine_record.write([process.pid for process in engine_processes()])

    def down(self) -> None:
        """Stops those services that `up` started and that still run."""
        if self._engine_record.processes():
            stop_engine()
            logger.info("stopped the yr engine")
        self._engine_record.clear()
        for broker in self._kafka_record.processes():
            broker.terminate()
            if psutil.wait_procs([broker], KAFKA_STOP_TIMEOUT)[1]:
                broker.kill()
                broker.wait()
            logger.info("stopped Kafka")
        self._kafka_record.clear()

    def status(self) -> bool:
        """Logs which services run; returns whether both do."""
        kafka_runs = broker_answers(self.kafka.bootstrap_servers)
        engine_runs = engine_is_running()
        for name, runs in (
            (f"Kafka at {self.kafka.bootstrap_servers}", kafka_runs),
            ("the yr engine", engine_runs),
        ):
            logger.info("%s: %s", name, "running" if runs else "not running")
        return kafka_runs and engine_runs
