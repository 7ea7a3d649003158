"""The whole flow on this machine, from rows to checkpoint, and nothing left running behind it.

    python examples/quickstart.py
    python examples/quickstart.py --data FILE --batch_size 50
    python examples/quickstart.py --ranks 2 --launcher mpirun

It starts Apache Kafka and the yr engine unless they are there, makes a topic, rows and
dictionaries, runs consumer.py, online_train.py and producer.py in processes of their own, shows
the trainer's loss lines, and stops what it started: at its end, on Ctrl-C, and when a part fails.
Without --data the rows are made by examples/make_sample.py. With it the dictionaries come from the
file's first rows and the rest is streamed.

Any other flag goes to online_train.py, whose --help explains it; topic, group and channel are new
ones for each run unless you name them. Checkpoints go to ./ckpt; those
that are there are set aside, those of earlier demos removed. What the parts have to say goes to the
logs in --work_dir.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Callable, Optional

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from examples.local_services import (
    ROOT,
    EngineService,
    KafkaService,
    ServiceError,
)
from examples.make_sample import write_sample
from examples.process_data import DataError, Processed, process
from src.config import Config, ConfigError, load_config
from src.dictionaries.dictionaries import DictionaryError
from src.process.child_processes import ended_with_parent
from src.process.logs import configure_logging
from src.process.ports import free_port, listening_ports
from src.process.stop import StopFlag, stop_on_signals
from src.stream.topic import TopicError, ensure_topic

logger = logging.getLogger("quickstart")

SAMPLE_HISTORY_ROWS = 20_000
SAMPLE_STEPS = 100
DATA_HISTORY_ROWS = 5_000
WARM_START_EPOCHS = 1
MEAN_STEPS = 10  # one step's loss is noise
LOCAL_HOSTS = ("localhost", "127.0.0.1")
LAUNCHERS = {"network": "run_dist_online_train.sh", "mpirun": "mpirun_dist_online_train.sh"}
RUN_NAME = re.compile(r"demo_[0-9a-f]{8}")

# Waits, in seconds.
JOIN_SECONDS = 180.0  # until consumer and trainer have met: both import much first
IDLE_SECONDS = 30.0  # the trainer's end where bad rows leave it short of its steps
STOP_SECONDS = 60.0  # the trainer may be writing a checkpoint
PROGRESS_SECONDS = 10.0

LOSS_LINE = re.compile(r"epoch: 1, step: \d+, wide_loss: (\S+), deep_loss: (\S+)")
RANK_PREFIX = re.compile(r"\[worker \d+\] ")
MET = re.compile(r"trainer session \d+: back to")
PRODUCED = re.compile(r"produced (\d+) rows")
CONSUMED = re.compile(r"consumed (\d+) windows, \d+ rows, (\d+) bad rows")
TRAINED = re.compile(r"trained (\d+) steps, (\d+) rows")
SCORED = re.compile(r"all \d+ rows: (AUC \S+, log loss [\d.?]+)")
SAVED = re.compile(r"checkpoint (.+) at position")


class DemoError(RuntimeError):
    """The demo can't go on; the message says why."""


FAILURES = (DemoError, ServiceError, TopicError, DataError, DictionaryError, OSError)


class Interrupted(Exception):  # noqa: N818 - a stop that was asked for is no error
    """A signal asked for a stop."""


# --- the scripts as processes --------------------------------------------------------------------


class Script:
    """A script of the repository in a process of its own, its output in a log file.

    Ctrl-C in the terminal does not reach it, so that it can be stopped in the right order; if this
    process is killed, it is told to stop.

    Args:
        name: Which script: a launcher's ``*.sh``, or a Python script without ".py".
        flags: Its flags.
        log_path: File for its stderr, and its stdout unless that is wanted line by line.
        on_line: Called in a thread of its own with each line of stdout.
        cwd: The folder it runs in.
    """

    def __init__(
        self,
        name: str,
        flags: Sequence[str],
        log_path: Path,
        on_line: Optional[Callable[[str], None]] = None,
        cwd: Optional[Path] = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*_command(name), *flags],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if on_line else log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ended_with_parent(signal.SIGTERM),
            )
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    @property
    def code(self) -> Optional[int]:
        """The exit code, None while it runs."""
        return self.process.poll()

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text(errors="replace")

    def found(self, pattern: re.Pattern[str]) -> Optional[re.Match[str]]:
        """The last match of a pattern in its log."""
        matches = list(pattern.finditer(self.log()))
        return matches[-1] if matches else None

    def wait(self, timeout: float) -> int:
        """Waits for its end and returns the exit code; raises ``subprocess.TimeoutExpired``."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def stop(self, number: int = signal.SIGTERM, timeout: float = STOP_SECONDS) -> int:
        """Asks it to end, kills it and its children if it does not, and returns the exit code."""
        if self.code is None:
            self.process.send_signal(number)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            logger.warning("%s.py did not end within %.0f s, killing it", self.name, timeout)
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.wait(timeout)

    def _read(self, on_line: Optional[Callable[[str], None]]) -> None:
        if on_line is None or self.process.stdout is None:
            return
        with self.process.stdout as lines:
            for line in lines:
                on_line(line.decode(errors="replace").rstrip("\n"))


def _command(name: str) -> list[str]:
    """How a script is run: a launcher by bash, else by this Python."""
    if name.endswith(".sh"):
        return ["bash", str(ROOT / name)]
    return [sys.executable, str(ROOT / f"{name}.py")]


# --- what to run ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What the flags ask for.

    Attributes:
        data: A Criteo file, None for made rows.
        history_rows: Rows the dictionaries are made from; None for the default.
        rows: Rows to stream; None for the default.
        steps: Steps to train; None for all rows.
        warm_start_epochs: Passes over the history before the stream.
        ranks: Over how many ranks it is trained.
        launcher: Which script starts them, where there are several.
        work_dir: Folder for rows, dictionaries, logs and the broker's data.
        trainer_flags: Flags of online_train.py, the run's own names first.
        config: What online_train.py will make of them.
    """

    data: Optional[Path]
    history_rows: Optional[int]
    rows: Optional[int]
    steps: Optional[int]
    warm_start_epochs: int
    ranks: int
    launcher: str
    work_dir: Path
    trainer_flags: Sequence[str]
    config: Config

    @property
    def rows_per_step(self) -> int:
        """Rows of a step, over all ranks."""
        return self.config.batch_size * self.ranks

    @property
    def topic_is_ours(self) -> bool:
        """Whether the topic has the run's own name."""
        return RUN_NAME.fullmatch(self.config.topic) is not None


@dataclass(frozen=True)
class Stream:
    """The rows that will be streamed and the dictionaries for them.

    Attributes:
        files: One for each partition.
        rows: Rows in all of them.
        steps: Steps to train.
        made: The dictionaries.
        history: Holds the rows that they were made from, at its beginning.
    """

    files: Sequence[Path]
    rows: int
    steps: int
    made: Processed
    history: Path


def parse_args(argv: Optional[Sequence[str]] = None) -> Plan:
    """Reads the flags.

    Raises:
        ConfigError: online_train.py would refuse one of its flags.
    """
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="quickstart.py [flags] [flags of online_train.py]",
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--data", type=Path, metavar="FILE", help="a Criteo file instead of made rows")
    flag(
        "--history_rows",
        type=int,
        metavar="N",
        help=f"rows the dictionaries are made from ({SAMPLE_HISTORY_ROWS}; with --data "
        f"{DATA_HISTORY_ROWS}, or a third of a shorter file)",
    )
    flag(
        "--warm_start_epochs",
        type=int,
        metavar="N",
        help="passes over these rows to train the model on before the stream (1 with admit_count, "
        "0 without)",
    )
    flag("--rows", type=int, metavar="N", help="rows to stream (with --data: all the rest)")
    flag(
        "--steps",
        type=int,
        metavar="N",
        help=f"steps to train ({SAMPLE_STEPS}; with --data or --rows as many as the rows give)",
    )
    flag("--ranks", type=int, default=1, metavar="N", help="ranks to train on, on this machine (1)")
    flag(
        "--launcher",
        choices=sorted(LAUNCHERS),
        default="network",
        help="what starts several ranks: MindSpore's dynamic networking or MPI (network)",
    )
    flag(
        "--work_dir",
        type=Path,
        default=ROOT / "build" / "demo",
        metavar="DIR",
        help="folder of rows, dictionaries, logs and Kafka's data (build/demo)",
    )
    arguments, others = parser.parse_known_args(argv)
    for name in ("history_rows", "rows", "steps", "ranks"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} must be positive, not {value}")
    run = f"demo_{uuid.uuid4().hex[:8]}"
    trainer_flags = [
        *(f"--topic={run}", f"--group_id={run}", f"--dataset_name={run}"),
        *("--fresh", f"--idle_seconds={IDLE_SECONDS:g}"),
        *(other for other in others if other != "--"),
    ]
    config = load_config(trainer_flags)
    epochs = arguments.warm_start_epochs
    if epochs is None:
        epochs = WARM_START_EPOCHS if config.admit_count and not config.init_ckpt else 0
    elif epochs < 0:
        parser.error(f"--warm_start_epochs must not be negative, not {epochs}")
    steps = arguments.steps or config.max_steps or None
    names = (arguments.data, arguments.history_rows, arguments.rows, steps, epochs)
    launch = (arguments.ranks, arguments.launcher)
    return Plan(*names, *launch, arguments.work_dir.resolve(), trainer_flags, config)


def prepare(plan: Plan) -> Stream:
    """Makes the dictionaries and the files to stream.

    Raises:
        DemoError: There are too few rows for the steps.
        DataError, DictionaryError, OSError: The rows can't be read or written.
    """
    plan.work_dir.mkdir(parents=True, exist_ok=True)
    files = [plan.work_dir / "output1.tsv", plan.work_dir / "output2.tsv"]
    if plan.data is None:
        history_rows = plan.history_rows or SAMPLE_HISTORY_ROWS
        rows = plan.rows or (plan.steps or SAMPLE_STEPS) * plan.rows_per_step
        history = plan.work_dir / "history.tsv"
        write_sample([history], history_rows, show_progress=True)
        write_sample(files, rows, start_row=history_rows, show_progress=True)
    else:
        history = plan.data
        history_rows = plan.history_rows or _default_history_rows(plan.data)
        rows = split_rows(plan.data, history_rows, plan.rows, files)
    steps = plan.steps or rows // plan.rows_per_step
    if rows < max(steps, 1) * plan.rows_per_step:
        raise DemoError(
            f"{rows} rows to stream are too few for {max(steps, 1)} steps of "
            f"{plan.rows_per_step} rows"
        )
    made = process(
        *([history], plan.work_dir),
        vocab_size=plan.config.vocab_size,
        keep_most_frequent=True,
        rows=history_rows,
        show_progress=True,
    )
    logger.info("dictionaries from %d rows; %d rows to stream", made.rows, rows)
    return Stream(files, rows, steps, made, history)


def split_rows(data: Path, skip: int, limit: Optional[int], files: Sequence[Path]) -> int:
    """Deals a file's rows to several files in turn, so that each keeps the order.

    Args:
        data: The file.
        skip: Rows at its beginning to leave out.
        limit: The most rows to deal, None for no limit.
        files: Where to.

    Returns:
        How many rows were dealt.
    """
    rows = 0
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(open(path, "wb")) for path in files]
        lines = stack.enter_context(open(data, "rb"))
        for line in islice(lines, skip, None if limit is None else skip + limit):
            outputs[rows % len(outputs)].write(line if line.endswith(b"\n") else line + b"\n")
            rows += 1
    return rows


def _default_history_rows(data: Path) -> int:
    with open(data, "rb") as lines:
        counted = sum(1 for _ in islice(lines, 3 * DATA_HISTORY_ROWS))
    return max(1, counted // 3)


# --- running it ----------------------------------------------------------------------------------


@dataclass
class LossLines:
    """What the trainer's stdout has said.

    Attributes:
        wide: wide_loss of each step, as printed.
        deep: deep_loss of each step, as printed.
        first_at: When the first one came, on a monotonic clock, seconds.
        last_at: When the last one came.
    """

    wide: list[str] = field(default_factory=list)
    deep: list[str] = field(default_factory=list)
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def steps(self) -> int:
        """Loss lines seen."""
        return len(self.wide)

    def take(self, line: str) -> None:
        """Shows a line and remembers what it says."""
        print(line, flush=True)
        match = LOSS_LINE.fullmatch(RANK_PREFIX.sub("", line))
        if match is None:
            return
        self.last_at = time.monotonic()
        self.first_at = self.first_at or self.last_at
        self.wide.append(match[1])
        self.deep.append(match[2])

    def rows_per_second(self, batch_size: int) -> float:
        """Rows trained a second, from the first step's end to the last one's."""
        seconds = self.last_at - self.first_at
        return (self.steps - 1) * batch_size / seconds if seconds > 0 else 0.0

    def sum_up(self) -> str:
        """The first and last losses, and the means of some steps at either end."""
        parts = []
        for name, losses in (("wide_loss", self.wide), ("deep_loss", self.deep)):
            ends = losses[:MEAN_STEPS], losses[-MEAN_STEPS:]
            before, after = (sum(map(float, end)) / len(end) for end in ends)
            parts.append(
                f"{name} {losses[0]} -> {losses[-1]} "
                f"(mean of {len(ends[0])}: {before:.3f} -> {after:.3f})"
            )
        return ", ".join(parts)


class Demo:
    """One run, which stops what it started however it ends.

    Args:
        plan: What to run.
        stream: On which rows.
        flag: Asks for an early end.
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
            The line that sums it up.

        Raises:
            DemoError, ServiceError, TopicError, OSError: It failed.
            Interrupted: The flag was set.
        """
        with self._started:
            init_ckpt = self._warm_start()
            self._start_services()
            consumer, trainer = self._start_consumer(), self._start_trainer(init_ckpt)
            self._wait(lambda: consumer.found(MET) is not None, "the trainer", JOIN_SECONDS)
            producer = self._start_producer()
            self._wait(lambda: trainer.code is not None, "the last step")
            for script in (trainer, producer, consumer):
                self._finish(script)
        return self._sum_up(producer, consumer, trainer)

    def _start_services(self) -> None:
        config, folder = self._plan.config, self._plan.work_dir / "kafka"
        host, _, port = config.bootstrap_servers.rpartition(":")
        kafka_is_ours = False
        if host in LOCAL_HOSTS and port.isdigit():
            if int(port) not in listening_ports():
                shutil.rmtree(folder, ignore_errors=True)  # rows of earlier runs
            logger.info("starting Kafka and the yr engine unless they are there, up to 15 s")
            kafka = self._started.enter_context(KafkaService(folder, int(port)))
            kafka_is_ours = kafka.started_here
        self._check()
        self._started.enter_context(EngineService(config.address))
        self._check()
        ensure_topic(config.bootstrap_servers, config.topic, 2, 1)
        if self._plan.topic_is_ours and not kafka_is_ours:
            self._started.callback(_delete_topic, config.bootstrap_servers, config.topic)

    def _warm_start(self) -> list[str]:
        """Trains on the history, if that was asked for; returns the trainer's flag for it."""
        plan, folder = self._plan, self._plan.work_dir / "warm_start"
        if not plan.warm_start_epochs:
            return []
        shutil.rmtree(folder, ignore_errors=True)
        rows = self._stream.made.rows
        logger.info("training on the %d rows of the history", rows)
        paths: list[str] = []
        script = self._start(
            "examples/warm_start",
            *plan.trainer_flags,
            f"--data={self._stream.history}",
            f"--rows={rows}",
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
            *self._shared("topic", "group_id", "reconnect_seconds"),
            *self._shared("vocab_size", "dense_transform", "admit_count"),
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
            *(str(plan.ranks), *scheduler, address, f"--logs={logs}", "--", *flags),
            on_line=self._lines.take,
        )

    def _start_producer(self) -> Script:
        logger.info("producing %d rows", self._stream.rows)
        files = [
            f"--file{number}={path}" for number, path in enumerate(self._stream.files, start=1)
        ]
        return self._start("producer", *files, *self._shared("bootstrap_servers", "topic"))

    def _shared(self, *names: str) -> Iterator[str]:
        return (f"--{name}={getattr(self._plan.config, name)}" for name in names)

    def _start(
        self, name: str, *flags: str, on_line: Optional[Callable[[str], None]] = None
    ) -> Script:
        self._check()
        script = Script(name, flags, self._plan.work_dir / f"{Path(name).name}.log", on_line)
        self._scripts.append(script)
        self._started.callback(script.stop)
        return script

    def _wait(
        self, condition: Callable[[], bool], what: str, timeout: float = float("inf")
    ) -> None:
        """Waits, says now and then how far things are, and fails when a script does."""
        began = said = time.monotonic()
        while not condition():
            self._check()
            now = time.monotonic()
            if now - began > timeout:
                raise DemoError(f"no sign of {what} after {timeout:.0f} s")
            if now - said > PROGRESS_SECONDS:
                said = now
                logger.info("waiting for %s, %d steps are done", what, self._lines.steps)
            self._flag.wait(0.1)

    def _check(self) -> None:
        """Raises when a stop was asked for or a script has ended that should not have."""
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
            raise DemoError(f"nothing was trained; {trainer.log_path} may say why")
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
    """Removes the checkpoints that earlier demos have left: set aside, each would stay for good."""
    for manifest in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if RUN_NAME.fullmatch(json.loads(manifest.read_bytes())["topic"]):
                manifest.unlink()
                manifest.with_suffix(".ckpt").unlink()


def _delete_topic(bootstrap_servers: str, topic: str) -> None:
    """Leaves no topic of ours on a broker that is not ours."""
    try:
        with contextlib.closing(
            KafkaAdminClient(bootstrap_servers=bootstrap_servers.split(","))
        ) as admin:
            admin.delete_topics([topic])
    except KafkaError as error:
        logger.warning("topic %s could not be deleted: %s", topic, error)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the demo; returns 0, 1 after a failure, 128 + the number of the signal that ended it."""
    configure_logging()
    try:
        plan = parse_args(argv)
    except ConfigError as error:
        logger.error("%s", error)
        return 2
    try:
        stream = prepare(plan)
        flag = StopFlag()
        stop_on_signals(flag)  # not earlier: so far there is nothing to stop, and files may be long
        summary = Demo(plan, stream, flag).run()
    except (KeyboardInterrupt, Interrupted) as interrupted:
        name = str(interrupted) or "SIGINT"
        logger.info("stopped by %s", name)
        return 128 + int(signal.Signals[name])
    except FAILURES as error:
        logger.error("%s", error)
        return 1
    print(summary, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
