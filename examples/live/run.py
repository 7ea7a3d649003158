"""The run: services, consumer, trainer and scoring service, and the rows that flow through them."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from examples.demo.losses import LOSS_LINE
from examples.demo.plan import DemoError
from examples.demo.script import Script
from examples.dictionaries.processing import Processed, process
from examples.live.client import MODEL_NAME, ScoringClient
from examples.live.feed import PARTITIONS, SteadyFeed
from examples.live.probes import Probes
from examples.live.watch import watch
from examples.sample.rows import write_sample
from examples.services.common import HOST, ROOT
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from src.cluster.topic import ensure_topic
from src.config import Config, load_config
from src.process.ports import free_port
from src.process.stop import StopFlag

logger = logging.getLogger("live")

ADAPTIVE = ROOT / "examples" / "adaptive.yaml"
HISTORY_ROWS = 20_000
READY_SECONDS = 180.0  # consumer and trainer import for seconds, and the first step compiles
WARM_STEPS = 2


@dataclass(frozen=True)
class LivePlan:
    """What a run is like.

    Attributes:
        work_dir: Folder for rows, dictionaries, logs, versions and Kafka's data.
        rows_per_second: How fast rows arrive.
        probe_every: Every how many rows one is a probe.
        rows: Rows to send, probes included, after those of the warm-up.
        port: The port of the scoring service.
        trainer_flags: Added to those of examples/adaptive.yaml.
        consumer_flags: Added to the consumer's.
        consumer: The script that consumes.
        trainer: The script that trains, with leading arguments.
    """

    work_dir: Path
    rows_per_second: float
    probe_every: int
    rows: int
    port: int
    trainer_flags: Sequence[str] = ()
    consumer_flags: Sequence[str] = ()
    consumer: Sequence[str] = ("consumer",)
    trainer: Sequence[str] = ("online_train",)
    run: str = field(default_factory=lambda: f"live_{uuid.uuid4().hex[:8]}")

    @property
    def stream_path(self) -> Path:
        """The file of the stream's rows."""
        return self.work_dir / "rows.tsv"

    @property
    def published(self) -> Path:
        """The folder of versions."""
        return self.work_dir / "published"


class StepCounter:
    """Counts a trainer's steps by its loss lines.

    Attributes:
        steps: How many so far.
    """

    def __init__(self) -> None:
        self.steps = 0

    def take(self, line: str) -> None:
        """Takes a line of its output."""
        if LOSS_LINE.fullmatch(line):
            self.steps += 1


class LiveRun:
    """One run; what it started is stopped at the end of the block.

    Args:
        plan: What it is like.
        flag: Set to end it early.

    Attributes:
        probes: All probes.
        client: Asks for their scores; it counts served and failed requests.
        losses: Counts the trainer's steps.
        feed: Sends the rows.

    Raises:
        DemoError, ServiceError, TopicError, OSError: It failed.
    """

    feed: SteadyFeed
    _batch_size: int

    def __init__(self, plan: LivePlan, flag: StopFlag) -> None:
        self.probes = Probes(plan.run)
        self.client = ScoringClient(HOST, plan.port)
        self.losses = StepCounter()
        self._plan = plan
        self._flag = flag
        self._watching = StopFlag()
        self._scripts: dict[str, Script] = {}
        self._commands: dict[str, tuple[Sequence[str], Callable[[str], None] | None]] = {}
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> LiveRun:
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def warm_up(self) -> None:
        """Sends the first rows, without probes, until they are learnt and a model serves.

        The first step compiles the network, which takes seconds.
        """
        rows = WARM_STEPS * self._batch_size
        self.feed.run(self._flag, rows, has_probes=False)
        self._wait(lambda: self.losses.steps >= WARM_STEPS, "the first steps")
        self._wait(self.client.is_ready, "a served model")

    def stream(self) -> None:
        """Sends the rows, and asks for the probes' scores meanwhile; returns when all are sent."""
        watcher = threading.Thread(
            target=watch, args=(self.client, self.probes, self._watching), daemon=True
        )
        watcher.start()
        self._closing.callback(watcher.join, 10.0)
        self._closing.callback(self._watching.set, "the run is over")
        feeding = threading.Thread(
            target=self.feed.run, args=(self._flag, self._plan.rows), daemon=True
        )
        feeding.start()
        while feeding.is_alive():
            self.check()
            feeding.join(0.2)

    def settle(self, seconds: float) -> None:
        """Waits until every probe is learnt, at most so long."""
        give_up_at = time.monotonic() + seconds
        while self.probes.waiting(1) and time.monotonic() < give_up_at:
            self.check()
            self._flag.wait(0.1)

    def check(self) -> None:
        """Raises where a script has ended.

        Raises:
            DemoError: One has.
        """
        for script in self._scripts.values():
            if script.code is not None:
                tail = "\n".join(f"  {line}" for line in script.log().splitlines()[-15:])
                raise DemoError(
                    f"{script.name}.py ended with exit code {script.code}; "
                    f"the end of {script.log_path}:\n{tail}"
                )

    def _start(self) -> None:
        plan = self._plan
        shutil.rmtree(plan.work_dir, ignore_errors=True)
        plan.work_dir.mkdir(parents=True)
        self._closing.callback(self.client.close)
        made, rows = self._make_rows()
        config = self._configuration()
        self._closing.enter_context(KafkaService(plan.work_dir / "kafka", _port(config)))
        self._closing.enter_context(EngineService(config.address))
        ensure_topic(config.bootstrap_servers, config.topic, PARTITIONS, 1)
        self._start_scripts(config, made)
        lines = self._closing.enter_context(rows.open("rb"))
        self.feed = SteadyFeed(
            config.bootstrap_servers,
            config.topic,
            (line.rstrip(b"\n") for line in lines),
            plan.rows_per_second,
            plan.probe_every,
            self.probes,
        )
        self._batch_size = config.batch_size

    def _make_rows(self) -> tuple[Processed, Path]:
        plan = self._plan
        history, rows = plan.work_dir / "history.tsv", plan.stream_path
        write_sample([history], HISTORY_ROWS, show_progress=True)
        config = load_config([f"--config_path={ADAPTIVE}"])
        made_rows = plan.rows + WARM_STEPS * config.batch_size
        write_sample([rows], made_rows, start_row=HISTORY_ROWS, show_progress=True)
        made = process(
            [history], plan.work_dir, vocab_size=config.vocab_size, keep_most_frequent=True
        )
        return made, rows

    def _configuration(self) -> Config:
        return load_config([*self._shared_flags(free_port()), *self._plan.trainer_flags])

    def _shared_flags(self, kafka_port: int) -> list[str]:
        run = self._plan.run
        return [
            f"--config_path={ADAPTIVE}",
            f"--bootstrap_servers={HOST}:{kafka_port}",
            f"--topic={run}",
            f"--group_id={run}",
            f"--dataset_name={run}",
        ]

    def _start_scripts(self, config: Config, made: Processed) -> None:
        plan = self._plan
        shared = self._shared_flags(_port(config))
        dictionaries = [
            f"--max_dict={made.max_dict}",
            f"--min_dict={made.min_dict}",
            f"--map_dict={made.map_dict}",
        ]
        self._script(plan.consumer, "consumer", [*shared, *dictionaries, *plan.consumer_flags])
        trainer = [
            *shared,
            *dictionaries,
            f"--ckpt_path={plan.work_dir / 'ckpt'}",
            f"--publish_path={plan.published}",
            f"--metrics_path={plan.work_dir / 'metrics.jsonl'}",
            "--loss_file_name=",
            *plan.trainer_flags,
        ]
        self._script(plan.trainer, "trainer", trainer, self.losses.take)
        serve = [f"--model={plan.published}", f"--port={plan.port}", f"--model_name={MODEL_NAME}"]
        self._script(["examples/serve"], "serve", serve)

    def script(self, name: str) -> Script:
        """A part: ``consumer``, ``trainer`` or ``serve``; the newest where it was started again."""
        return self._scripts[name]

    def start_again(self, name: str, *more: str) -> None:
        """Starts a part once more, with more flags; the one before it must have ended, or end."""
        command, on_line = self._commands[name]
        self._script([*command, *more], name, [], on_line)

    def _script(
        self,
        command: Sequence[str],
        name: str,
        flags: Sequence[str],
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        command = [*command, *flags]
        number = "" if name not in self._scripts else f"_{time.time_ns() // 1_000_000}"
        log = self._plan.work_dir / f"{name}{number}.log"
        started = Script(command[0], command[1:], log, on_line)
        self._scripts[name] = started
        self._commands[name] = (command, on_line)
        self._closing.callback(started.stop)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        give_up_at = time.monotonic() + READY_SECONDS
        while not condition():
            self.check()
            if self._flag.is_set():
                return
            if time.monotonic() > give_up_at:
                raise DemoError(f"no sign of {what} after {READY_SECONDS:.0f} s")
            self._flag.wait(0.1)


def _port(config: Config) -> int:
    return int(config.bootstrap_servers.rpartition(":")[2])
