"""The run itself: services, consumer, trainer and producer, and how it ends."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from examples.demo.losses import LossLines
from examples.demo.plan import LAUNCHERS, RUN_NAME, DemoError, Plan
from examples.demo.rows import Stream
from examples.demo.script import Script
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from src.checkpoints.unit import remove_unit
from src.cluster.settings import ClientSettings
from src.cluster.topic import ensure_topic
from src.process.ports import free_port, listening_ports
from src.process.stop import StopFlag

logger = logging.getLogger("quickstart")

LOCAL_HOSTS = ("localhost", "127.0.0.1")

# Waits, in seconds.
JOIN_SECONDS = 180.0  # until consumer and trainer are connected: both import for seconds first
PROGRESS_SECONDS = 10.0

CONNECTED = re.compile(r"trainer session \d+: back to")
PRODUCED = re.compile(r"produced (\d+) rows")
CONSUMED = re.compile(r"consumed (\d+) windows, \d+ rows, (\d+) bad rows")
TRAINED = re.compile(r"trained (\d+) steps, (\d+) rows")
SCORED = re.compile(r"all \d+ rows: (AUC \S+, log loss [\d.?]+)")
SAVED = re.compile(r"checkpoint (.+) at position")


class Interrupted(Exception):  # noqa: N818 - a requested stop is no error
    """A signal requested a stop."""


class Demo:
    """One run; it stops what it started, however it ends.

    Args:
        plan: What to run.
        stream: The rows to stream.
        flag: Set to end the run early.
    """

    def __init__(self, plan: Plan, stream: Stream, flag: StopFlag) -> None:
        self._plan = plan
        self._stream = stream
        self._flag = flag
        self._lines = LossLines()
        self._scripts: list[Script] = []
        self._started = contextlib.ExitStack()

    def run(self) -> str:
        """Runs the flow and stops everything.

        Returns:
            The line that sums the run up.

        Raises:
            DemoError, ServiceError, TopicError, OSError: It failed.
            Interrupted: The flag was set.
        """
        with self._started:
            init_ckpt = self._warm_start()
            self._start_services()
            consumer, trainer = self._start_consumer(), self._start_trainer(init_ckpt)
            self._wait(lambda: consumer.found(CONNECTED) is not None, "the trainer", JOIN_SECONDS)
            producer = self._start_producer()
            self._wait(lambda: trainer.code is not None, "the last step")
            for script in (trainer, producer, consumer):
                self._finish(script)
        return self._sum_up(producer, consumer, trainer)

    def _start_services(self) -> None:
        config, folder = self._plan.config, self._plan.work_dir / "kafka"
        cluster = self._plan.cluster
        host, _, port = cluster.servers[0].rpartition(":")
        started_kafka = False
        if len(cluster.servers) == 1 and host in LOCAL_HOSTS and not config.kafka_config:
            if int(port) not in listening_ports():
                shutil.rmtree(folder, ignore_errors=True)  # rows of earlier runs
            logger.info("starting Kafka and the yr engine unless they run already, up to 15 s")
            kafka = self._started.enter_context(KafkaService(folder, int(port)))
            started_kafka = kafka.started_here
        self._check()
        self._started.enter_context(EngineService(config.address))
        self._check()
        ensure_topic(cluster, config.topic, 2, 1)
        if self._plan.topic_is_ours and not started_kafka:
            self._started.callback(_delete_topic, cluster, config.topic)

    def _warm_start(self) -> list[str]:
        """Trains on the history if the plan asks for it; returns the trainer's flag."""
        plan, folder = self._plan, self._plan.work_dir / "warm_start"
        if not plan.warm_start_epochs:
            return []
        shutil.rmtree(folder, ignore_errors=True)
        logger.info("training on the %d rows of the history", self._stream.made.rows)
        paths: list[str] = []
        script = self._start(
            "examples/warm_start",
            *plan.trainer_flags,
            f"--data={self._stream.history}",
            f"--epochs={plan.warm_start_epochs}",
            f"--ckpt_path={folder}",
            *self._dictionaries(),
            on_line=paths.append,
        )
        self._wait(lambda: script.code is not None, "the end of the warm start")
        self._finish(script)
        return [f"--init_ckpt={paths[-1]}"]

    def _start_consumer(self) -> Script:
        return self._start(
            "consumer",
            *self._shared("address", "namespace", "dataset_name", "bootstrap_servers"),
            *self._shared("kafka_config", "topic", "group_id", "reconnect_seconds"),
            *self._shared("vocab_size", "dense_transform", "admit_count", "cross_bits"),
            *self._dictionaries(),
            f"--num_shards={self._plan.ranks}",
            f"--profile={self._stream.made.profile}",
        )

    def _dictionaries(self) -> Iterator[str]:
        made = self._stream.made
        return (f"--{name}={getattr(made, name)}" for name in ("max_dict", "min_dict", "map_dict"))

    def _start_trainer(self, init_ckpt: Sequence[str]) -> Script:
        remove_earlier_demos(Path(self._plan.config.ckpt_path))
        plan = self._plan
        flags = [*plan.trainer_flags, *init_ckpt, f"--max_steps={self._stream.steps}"]
        if plan.ranks == 1:
            return self._start("online_train", *flags, on_line=self._lines.take)
        address, logs = plan.config.address, plan.work_dir / "ranks"
        scheduler = [address, str(free_port())] if plan.launcher == "network" else []
        return self._start(
            LAUNCHERS[plan.launcher],
            str(plan.ranks),
            *scheduler,
            address,
            f"--logs={logs}",
            "--",
            *flags,
            on_line=self._lines.take,
        )

    def _start_producer(self) -> Script:
        logger.info("producing %d rows", self._stream.rows)
        files = [
            f"--file{number}={path}" for number, path in enumerate(self._stream.files, start=1)
        ]
        return self._start(
            "producer", *files, *self._shared("bootstrap_servers", "kafka_config", "topic")
        )

    def _shared(self, *names: str) -> Iterator[str]:
        return (f"--{name}={getattr(self._plan.config, name)}" for name in names)

    def _start(
        self, name: str, *flags: str, on_line: Callable[[str], None] | None = None
    ) -> Script:
        self._check()
        script = Script(name, flags, self._plan.work_dir / f"{Path(name).name}.log", on_line)
        self._scripts.append(script)
        self._started.callback(script.stop)
        return script

    def _wait(
        self, condition: Callable[[], bool], what: str, timeout: float = float("inf")
    ) -> None:
        """Waits, logs the number of steps now and then, and fails when a script does."""
        began = logged = time.monotonic()
        while not condition():
            self._check()
            now = time.monotonic()
            if now - began > timeout:
                raise DemoError(f"no sign of {what} after {timeout:.0f} s")
            if now - logged > PROGRESS_SECONDS:
                logged = now
                logger.info("waiting for %s, %d steps are done", what, self._lines.steps)
            self._flag.wait(0.1)

    def _check(self) -> None:
        """Raises when a stop was requested, or when a script ended too early."""
        if self._flag.is_set():
            raise Interrupted(self._flag.reason)
        for script in self._scripts:
            if script.code or (script.code == 0 and script.name == "consumer"):
                raise _failure(script)

    def _finish(self, script: Script) -> None:
        if script.stop() != 0:
            raise _failure(script)

    def _sum_up(self, producer: Script, consumer: Script, trainer: Script) -> str:
        produced, consumed = producer.found(PRODUCED), consumer.found(CONSUMED)
        trained, saved = trainer.found(TRAINED), trainer.found(SAVED)
        scored = trainer.found(SCORED)
        if not (produced and consumed and trained and saved and scored and self._lines.steps):
            raise DemoError(f"nothing was trained; the reason may be in {trainer.log_path}")
        bad = f" and {consumed[2]} bad rows" if consumed[2] != "0" else ""
        return (
            f"produced {produced[1]} rows, consumed {consumed[1]} windows{bad}, "
            f"trained {trained[2]} rows in {trained[1]} steps {self._on_ranks()}"
            f"at {self._lines.rows_per_second(self._plan.rows_per_step):.0f} rows/s; "
            f"{self._lines.sum_up()}; progressive {scored[1]}; checkpoint {saved[1]}"
        )

    def _on_ranks(self) -> str:
        plan = self._plan
        return f"on {plan.ranks} ranks by {LAUNCHERS[plan.launcher]} " if plan.ranks > 1 else ""


def _failure(script: Script) -> DemoError:
    tail = "\n".join(f"  {line}" for line in script.log().splitlines()[-15:])
    return DemoError(
        f"{script.name}.py ended with exit code {script.code}; "
        f"the end of {script.log_path}:\n{tail}"
    )


def remove_earlier_demos(folder: Path) -> None:
    """Removes checkpoints of earlier demos, which would else be set aside and stay for ever."""
    for manifest in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if RUN_NAME.fullmatch(json.loads(manifest.read_bytes())["topic"]):
                remove_unit(manifest)


def _delete_topic(cluster: ClientSettings, topic: str) -> None:
    """Removes the run's topic from a broker that was not started here."""
    try:
        with contextlib.closing(KafkaAdminClient(**cluster.client_options())) as admin:
            admin.delete_topics([topic])
    except KafkaError as error:
        logger.warning("topic %s could not be deleted: %s", topic, error)
