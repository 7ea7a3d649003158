"""The real scripts as processes around one topic and one channel, with a small model."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, TopicPartition

from examples.demo.plan import LAUNCHERS
from examples.demo.script import Script
from examples.dictionaries.processing import process
from examples.sample.rows import write_sample
from examples.services.common import HOST, wait_until
from src.cluster.topic import ensure_topic
from src.process.ports import free_port
from src.rows.criteo import DENSE_SIZE

BATCH_SIZE = 50
VOCAB_SIZE = 2000
SMALL_MODEL = (
    f"--vocab_size={VOCAB_SIZE}",
    "--emb_dim=8",
    "--deep_layer_dim=32,16",
    f"--batch_size={BATCH_SIZE}",
)
LONG = 120.0  # seconds; a script that takes longer hangs
CONSUMER_STOP_SECONDS = 5.0

LOSS_LINE = re.compile(r"epoch: 1, step: (\d+), wide_loss: [\d.]+, deep_loss: [\d.]+")
CONSUMED = re.compile(r"consumed (\d+) windows, (\d+) rows, (\d+) bad rows$", re.MULTILINE)
READING = re.compile(r"reading from")
WAITING_FOR_CONSUMER = re.compile(r"not there")


@dataclass(frozen=True)
class AuditedRows:
    """One line of the trainer's audit trail."""

    step: int
    partition: int
    first_offset: int
    last_offset: int
    rows: int


@dataclass(frozen=True)
class DictionaryFiles:
    """The consumer's three files."""

    max_dict: Path
    min_dict: Path
    map_dict: Path

    @staticmethod
    def make(folder: Path, rows: int = 3000) -> DictionaryFiles:
        """Makes them from sample rows that no stream holds."""
        write_sample([folder / "history.tsv"], rows, seed=1)
        made = process(
            [folder / "history.tsv"], folder, vocab_size=VOCAB_SIZE, keep_most_frequent=True
        )
        return DictionaryFiles(made.max_dict, made.min_dict, made.map_dict)


def growing_flags(dictionaries: DictionaryFiles) -> list[str]:
    """Flags of consumer and trainer: a growing vocabulary, many replaced values, and crosses."""
    ids = len(pickle.loads(dictionaries.map_dict.read_bytes()))
    room = 200
    return [
        "--dense_transform=log",
        f"--vocab_size={ids + room + DENSE_SIZE}",
        "--admit_count=2",
        "--cross_bits=14",
    ]


class Pipeline:
    """Starts scripts that belong together; at the end of the block none of them runs.

    Args:
        folder: Where they run.
        bootstrap_servers: The broker.
        dictionaries: The consumer's.
        num_partitions: Of the topic that is made.
        topic: An existing topic to use instead.
        kafka_config: A ``client.properties`` file by which the scripts connect. The broker above
            is then for the tests.
    """

    def __init__(
        self,
        folder: Path,
        bootstrap_servers: str,
        dictionaries: DictionaryFiles,
        num_partitions: int,
        topic: str | None = None,
        kafka_config: Path | None = None,
    ) -> None:
        self.folder = folder
        self.bootstrap_servers = bootstrap_servers
        self.dictionaries = dictionaries
        self.name = f"test_{uuid.uuid4().hex[:8]}"
        self.topic = topic or self.name
        if topic is None:
            ensure_topic(bootstrap_servers, self.name, num_partitions, replication_factor=1)
        connection = f"--bootstrap_servers={bootstrap_servers}"
        if kafka_config is not None:
            connection = f"--kafka_config={kafka_config}"
        self._topic = (connection, f"--topic={self.topic}")
        self._ends = (*self._topic, f"--group_id={self.name}", f"--dataset_name={self.name}")
        self._scripts: list[Script] = []
        self.loss_lines: list[str] = []

    def producer(self, files: Sequence[Path], *flags: str) -> Script:
        """Starts producer.py for one or two files."""
        names = [f"--file{number}={path}" for number, path in enumerate(files, start=1)]
        if len(files) == 1:
            names.append("--file2=")
        return self._start("producer", *self._topic, *names, *flags)

    def consumer(self, *flags: str) -> Script:
        """Starts consumer.py."""
        return self._start(
            "consumer",
            *self._ends,
            f"--max_dict={self.dictionaries.max_dict}",
            f"--min_dict={self.dictionaries.min_dict}",
            f"--map_dict={self.dictionaries.map_dict}",
            *flags,
        )

    def trainer(self, *flags: str) -> Script:
        """Starts online_train.py; its stdout goes to ``loss_lines``."""
        fixed = (*self._ends, *SMALL_MODEL, "--audit_path=audit.jsonl")
        return self._start("online_train", *fixed, *flags)

    def ranks(self, launcher: str, size: int, *flags: str) -> Script:
        """Starts the trainer on several ranks; its stdout goes to ``loss_lines``.

        Args:
            launcher: A key of ``examples.quickstart.LAUNCHERS``.
            size: How many ranks.
            flags: Of online_train.py.
        """
        return self._start(LAUNCHERS[launcher], *self.launch_arguments(launcher, size, *flags))

    def launch_arguments(self, launcher: str, size: int, *flags: str) -> list[str]:
        """Arguments of a launcher's script."""
        scheduler = [HOST, str(free_port())] if launcher == "network" else []
        arguments = (str(size), *scheduler, HOST, f"--logs={self.folder / 'logs'}")
        fixed = (*self._ends, *SMALL_MODEL, "--audit_path=audit.jsonl")
        return [*arguments, "--", *fixed, *flags]

    def last_log(self) -> str:
        """The log of the script started last."""
        return self._scripts[-1].log()

    def audit(self) -> list[AuditedRows]:
        """The audit trail of all runs."""
        path = self.folder / "audit.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [AuditedRows(**json.loads(line)) for line in lines]

    def committed(self) -> dict[int, int | None]:
        """What Kafka's own tools see as the group's position."""
        with KafkaConsumer(
            bootstrap_servers=self.bootstrap_servers, group_id=self.name, enable_auto_commit=False
        ) as tool:
            handles = [
                TopicPartition(self.topic, number)
                for number in sorted(tool.partitions_for_topic(self.topic) or ())
            ]
            return {handle.partition: tool.committed(handle) for handle in handles}

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        for script in reversed(self._scripts):
            script.stop(timeout=20)

    def _start(self, name: str, *flags: str) -> Script:
        log = self.folder / f"{name}{len(self._scripts)}.log"
        trains = name == "online_train" or name in LAUNCHERS.values()
        on_line = self.loss_lines.append if trains else None
        script = Script(name, flags, log, on_line, cwd=self.folder)
        self._scripts.append(script)
        return script


def sample_files(folder: Path, rows: int, partitions: int) -> list[Path]:
    """Sample rows, dealt to one file per partition."""
    files = [folder / f"output{number + 1}.tsv" for number in range(partitions)]
    write_sample(files, rows)
    return files


def wait_for(script: Script, pattern: re.Pattern[str], timeout: float = LONG) -> None:
    """Waits until a script has logged something; fails when it ends before."""
    wait_until(lambda: bool(script.found(pattern)) or script.code is not None, timeout, 0.05)
    if not script.found(pattern):
        pytest.fail(f"{script.name}.py never logged {pattern.pattern!r}:\n{script.log()}")


def assert_ends(script: Script, timeout: float = LONG) -> None:
    """Fails unless a script ends by itself, with exit code 0 and without leaving a process."""
    assert script.wait(timeout) == 0, script.log()
    assert_nothing_left(script)


def assert_stops(script: Script, number: int, within: float) -> None:
    """Fails unless a signal ends a script in time, with exit code 0 and no process left."""
    assert script.code is None, script.log()
    asked = time.monotonic()
    assert script.stop(number) == 0, script.log()
    assert time.monotonic() - asked < within, script.log()
    assert_nothing_left(script)


def assert_nothing_left(script: Script) -> None:
    """Fails when a script, which led a session of its own, has left a process in it."""
    # multiprocessing's resource tracker follows the process it served a moment later.
    assert wait_until(lambda: not _processes_of(script.process.pid), 2.0), (
        f"{script.name}.py left {_processes_of(script.process.pid)}"
    )


def _processes_of(session: int) -> list[psutil.Process]:
    found = []
    for candidate in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(candidate.pid) == session and candidate.info["status"] != "zombie":
                found.append(candidate)
    return found


def trained_offsets(audit: Sequence[AuditedRows]) -> dict[int, list[int]]:
    """The offsets of each partition in the order in which they were trained.

    Fails unless the steps count up from 1, each with a whole batch; the topic must hold no bad
    rows.
    """
    rows_by_step: dict[int, int] = {}
    offsets: dict[int, list[int]] = {}
    for rows in audit:
        rows_by_step[rows.step] = rows_by_step.get(rows.step, 0) + rows.rows
        new = range(rows.first_offset, rows.last_offset + 1)
        assert len(new) == rows.rows
        offsets.setdefault(rows.partition, []).extend(new)
    assert rows_by_step == dict.fromkeys(range(1, len(rows_by_step) + 1), BATCH_SIZE)
    return offsets


def assert_trained_once(audit: Sequence[AuditedRows], *rows_by_partition: int) -> None:
    """Fails unless the first so many rows of each partition were trained once each, in order."""
    wanted = {part: list(range(rows)) for part, rows in enumerate(rows_by_partition)}
    assert trained_offsets(audit) == wanted
