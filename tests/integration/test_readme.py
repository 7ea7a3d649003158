"""Runs the commands of the README's ``bash`` blocks as they stand there, but for ports and folders.

What is changed, and nothing else:

* They run in a scratch folder that holds links to what is in the repository, so that the files and
  checkpoints they write are not the user's.
* Scripts that name a broker get ``--bootstrap_servers`` with the test broker's port, and
  ``examples/quickstart.py`` and ``examples/local_services.py`` a folder of their own.
* ``make TARGET`` is taken apart by ``make -n TARGET``, and what it would run is run with the same
  changes. Of ``make test`` the tests are only collected: this is one of them.
* The archive's ZooKeeper and broker are started from the jars of ``make setup``: the same classes
  with the archive's properties, on free ports. The steps then use this broker.
* ``yrctl`` is not run where the engine was running before the tests: it may be in use.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import consumer
import kafka_client
import producer
from examples.local_services import (
    ROOT,
    EngineService,
    KafkaService,
    broker_answers,
    engine_is_running,
    stop_engine,
    wait_until,
)
from examples.make_sample import write_sample
from src.config import read_defaults
from src.process.ports import free_port
from tests.integration.pipeline import LONG, LOSS_LINE

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[list[str]] = [
    [line for line in block.splitlines() if line]
    for block in re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
]
COMMANDS = [command for block in BLOCKS for command in block]
IN_EVERY_TERMINAL = ("source .venv/bin/activate", "export MASTER_HOST_IP=127.0.0.1")
NOT_LINKED = (
    *("ckpt", "loss.log", "metrics.jsonl", "output", "all_val", "cat2id", "day_0"),
    *(".git", ".pytest_cache"),
)
NAMES_A_BROKER = (
    "kafka_client.py",
    "producer.py",
    "consumer.py",
    "online_train.py",
    "quickstart.py",
)

ZOOKEEPER_PROPERTIES = """\
dataDir={folder}/zookeeper
clientPort={zookeeper_port}
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
"""
BROKER_PROPERTIES = """\
broker.id=0
listeners=PLAINTEXT://127.0.0.1:{port}
log.dirs={folder}/kafka-logs
zookeeper.connect=127.0.0.1:{zookeeper_port}
num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
"""
ARCHIVE_CLASSES = {
    "bin/zookeeper-server-start.sh": "org.apache.zookeeper.server.quorum.QuorumPeerMain",
    "bin/kafka-server-start.sh": "kafka.Kafka",
}


def only(start: str) -> str:
    """The README's command that starts like that; there must be exactly one."""
    commands = [command for command in COMMANDS if command.startswith(start)]
    assert len(set(commands)) == 1, start
    return commands[0]


@dataclass
class Terminals:
    """The reader's terminals: each command in a shell of its own, in the scratch folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    zookeeper_port: int = field(default_factory=free_port)
    done: list[str] = field(default_factory=list)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Runs a command; what it says goes to files named after its number."""
        self.done.append(command)
        return self._launch(self._with_our_ports_and_folders(command))

    def run(self, command: str, timeout: float = LONG) -> str:
        """Runs a command to its end and returns its stdout; fails unless the exit code is 0."""
        process = self.start(command)
        assert process.wait(timeout) == 0, self.said(process)
        return self.stdout(process)

    def make(self, command: str, replaced: Callable[[str], str] = str) -> str:
        """Runs what ``make -n`` says that a target runs; returns the last command's stdout."""
        self.done.append(command)
        dry = subprocess.run(
            ["make", "-n", "--no-print-directory", *shlex.split(command)[1:]],
            cwd=ROOT,
            env=_environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        said = ""
        for line in dry.stdout.splitlines():
            process = self._launch(self._with_our_ports_and_folders(replaced(line)))
            assert process.wait(LONG) == 0, self.said(process)
            said = self.stdout(process)
        return said

    def stdout(self, process: subprocess.Popen[bytes]) -> str:
        return self._path(process, "out").read_text(errors="replace")

    def said(self, process: subprocess.Popen[bytes]) -> str:
        return self.stdout(process) + self._path(process, "err").read_text(errors="replace")

    def press_ctrl_c(self, process: subprocess.Popen[bytes], within: float) -> None:
        """Sends SIGINT to all that runs in the terminal; fails unless it ends in time, with 0."""
        assert process.poll() is None, self.said(process)
        pressed = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(LONG) == 0, self.said(process)
        assert time.monotonic() - pressed < within

    def close(self) -> None:
        for process in reversed(self.running):
            if process.poll() is not None:
                continue
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _launch(self, command: str) -> subprocess.Popen[bytes]:
        number = len(self.running)
        script = "\n".join((*IN_EVERY_TERMINAL, command))
        with (
            open(self.folder / f"{number}.out", "wb") as out,
            open(self.folder / f"{number}.err", "wb") as err,
        ):
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def _path(self, process: subprocess.Popen[bytes], kind: str) -> Path:
        return self.folder / f"{self.running.index(process)}.{kind}"

    def _with_our_ports_and_folders(self, command: str) -> str:
        words = shlex.split(command)
        if words[0] in ARCHIVE_CLASSES:
            log4j = f"-Dlog4j.configuration=file:{self.folder}/log4j.properties"
            jars_and_class = f'-cp "build/kafka/*" {ARCHIVE_CLASSES[words[0]]}'
            return f"exec java -Xmx512m {log4j} {jars_and_class} {Path(words[1]).name}"
        if words[0] == "python" and Path(words[1]).name in NAMES_A_BROKER:
            command += f" --bootstrap_servers=127.0.0.1:{self.port}"
        if words[:2] == ["python", "examples/quickstart.py"]:
            command += f" --work_dir={self.folder}/demo"
        services = f"--kafka_port={self.port} --data_dir={self.folder}/services"
        return re.sub(r"(examples/local_services\.py \w+)", rf"\1 {services}", command)


def _environment() -> dict[str, str]:
    """A shell's environment: no make around it, and no COLUMNS, which shells do not export."""
    ours = ("MAKE", "COLUMNS")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    for entry in ROOT.iterdir():
        if not entry.name.startswith(NOT_LINKED):
            (tmp_path / entry.name).symlink_to(entry)
    terminals = Terminals(tmp_path)
    values = {
        "folder": tmp_path,
        "port": terminals.port,
        "zookeeper_port": terminals.zookeeper_port,
    }
    (tmp_path / "zookeeper.properties").write_text(ZOOKEEPER_PROPERTIES.format(**values))
    (tmp_path / "server.properties").write_text(BROKER_PROPERTIES.format(**values))
    (tmp_path / "log4j.properties").write_text(
        "log4j.rootLogger=WARN, out\n"
        "log4j.appender.out=org.apache.log4j.ConsoleAppender\n"
        "log4j.appender.out.layout=org.apache.log4j.PatternLayout\n"
    )
    try:
        yield terminals
    finally:
        terminals.close()
        shutil.rmtree(
            tmp_path / "ckpt", ignore_errors=True
        )  # 230 MB each, and pytest keeps folders


@contextlib.contextmanager
def engine_of(terminals: Terminals, engine: EngineService) -> Iterator[None]:
    """The engine that the README's own commands start and stop, if it is ours to stop."""
    start, stop = only("yrctl start"), only("yrctl stop")
    if not engine.started_here:
        terminals.done += [start, stop]
        yield
        return
    engine.stop()
    try:
        terminals.run(start)
        assert wait_until(engine_is_running, 20)
        yield
        terminals.run(stop)
        assert wait_until(lambda: not engine_is_running(), 20)
    finally:
        if engine_is_running():
            stop_engine()
        engine.start()


STEPS = (
    *("make setup", "python examples/make_sample.py", "python examples/process_data.py"),
    *("bin/zookeeper-server-start.sh", "bin/kafka-server-start.sh", "python kafka_client.py"),
    *("yrctl start", "python producer.py", "python consumer.py", "python online_train.py"),
    "yrctl stop",
)
OWN_FILE = "python examples/quickstart.py --data day_0.tsv"
DEMO = "make demo"
ADAPTIVE = f"{OWN_FILE} --config_path examples/adaptive.yaml"
MANY_CARDS = ("bash run_dist", "bash mpirun_dist", "make demo-ranks")
OTHERS = ("make test", "make services-up", "make services-down")


def test_every_command_is_run_by_a_test_and_the_steps_stand_in_order() -> None:
    tested = {*map(only, (*STEPS, *OTHERS, *MANY_CARDS)), *IN_EVERY_TERMINAL}
    tested |= {DEMO, OWN_FILE, ADAPTIVE}
    assert set(COMMANDS) == tested
    places = [COMMANDS.index(only(step)) for step in STEPS]
    assert places == sorted(places)


@pytest.mark.slow
def test_steps_work_as_written(terminals: Terminals, engine: EngineService) -> None:
    for step in STEPS[:3]:
        terminals.make(only(step)) if step.startswith("make") else terminals.run(only(step))
    terminals.start(only("bin/zookeeper-server-start.sh"))
    broker = terminals.start(only("bin/kafka-server-start.sh"))
    address = f"127.0.0.1:{terminals.port}"
    assert wait_until(lambda: broker_answers(address), LONG, 0.5), terminals.said(broker)
    terminals.run(only("python kafka_client.py"))
    with engine_of(terminals, engine):
        terminals.run(only("python producer.py"))
        consuming = terminals.start(only("python consumer.py"))
        training = terminals.start(only("python online_train.py"))
        assert wait_until(
            lambda: (
                len(terminals.stdout(training).splitlines()) >= 20 or training.poll() is not None
            ),
            LONG,
        ), terminals.said(training) + terminals.said(consuming)
        terminals.press_ctrl_c(training, within=20)
        terminals.press_ctrl_c(consuming, within=5)
    lines = terminals.stdout(training).splitlines()
    steps = [LOSS_LINE.fullmatch(line) for line in lines]
    assert [match and int(match[1]) for match in steps] == list(range(1, len(lines) + 1))
    (checkpoint,) = (terminals.folder / "ckpt").glob("*.ckpt")
    assert checkpoint.name == f"widedeep_train-1_{len(lines)}.ckpt"
    assert sorted(terminals.done) == sorted(map(only, STEPS))


@pytest.mark.slow
def test_make_demo_and_the_users_own_file_work_as_written(
    terminals: Terminals, engine: EngineService
) -> None:
    began = time.monotonic()
    said = terminals.make(DEMO).splitlines()
    assert time.monotonic() - began < 180
    assert len([line for line in said if LOSS_LINE.fullmatch(line)]) >= 50
    assert said[-1].startswith("produced 10000 rows")
    assert list((terminals.folder / "ckpt").glob("widedeep_train-*.ckpt"))
    write_sample([terminals.folder / "day_0.tsv"], 900)
    for command in (OWN_FILE, ADAPTIVE):
        said = terminals.run(command).splitlines()
        assert said[-1].startswith("produced 600 rows")
    assert "progressive AUC" in said[-1]


@pytest.mark.ranks
@pytest.mark.timeout(900)
def test_many_cards_work_as_written(terminals: Terminals, engine: EngineService) -> None:
    demo, by_network, by_mpi = only("make demo-ranks"), *map(only, MANY_CARDS[:2])
    said = terminals.make(demo).splitlines()
    assert said[-1].startswith("produced 10000 rows")
    assert "trained 10000 rows in 50 steps on 2 ranks by mpirun" in said[-1]
    with KafkaService(terminals.folder / "broker", terminals.port):
        for step in ("python examples/make_sample.py", "python examples/process_data.py"):
            terminals.run(only(step))
        terminals.run(only("python kafka_client.py"))
        terminals.run(only("python producer.py"))
        consumer_command = only("python consumer.py").replace("_shards=1", "_shards=2")
        consuming = terminals.start(consumer_command)
        for steps, command in ((10, by_network), (20, by_mpi)):
            flags = f"-- --fresh --bootstrap_servers=127.0.0.1:{terminals.port}"
            training = terminals.start(f"{command} {flags} --max_steps={steps}")
            assert training.wait(LONG) == 0, terminals.said(training)
            assert f", step: {steps}, wide_loss" in terminals.stdout(training)
        terminals.press_ctrl_c(consuming, within=5)


def test_make_test_collects_all_tests(terminals: Terminals) -> None:
    def collect_only(command: str) -> str:
        return f"{command} --collect-only -q" if "-m pytest" in command else command

    said = terminals.make(only("make test"), collect_only)
    assert f"{Path(__file__).name}::{test_make_test_collects_all_tests.__name__}" in said
    assert "tests collected" in said.splitlines()[-1]


def test_services_come_up_and_go_down_as_written(
    terminals: Terminals, engine: EngineService
) -> None:
    try:
        terminals.make(only("make services-up"))
        assert broker_answers(f"127.0.0.1:{terminals.port}")
    finally:
        terminals.make(only("make services-down"))
    assert not broker_answers(f"127.0.0.1:{terminals.port}")
    assert engine_is_running()


class _Parser(Exception):  # noqa: N818 - it carries a parser, nothing went wrong
    pass


def flags_of(parse_args: Callable[[Sequence[str]], Any]) -> dict[str, object]:
    """A script's flags and their defaults."""

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Parser(parser)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parser) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        parse_args([])
    parser = caught.value.args[0]
    return {a.option_strings[-1]: a.default for a in parser._actions if a.dest != "help"}


def test_table_of_flags_holds_every_flag_of_every_script_with_its_default() -> None:
    def text(value: object) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    actual = {
        "client": flags_of(kafka_client.parse_args),
        "producer": flags_of(producer.parse_args),
        "consumer": flags_of(consumer.parse_args),
        "trainer": {f"--{key}": value for key, value in read_defaults().values.items()},
    }
    table: dict[str, dict[str, str]] = {script: {} for script in actual}
    for flag, default, scripts in re.findall(
        r"^\| `(--\w+)` \| (?:`(.*?)`)? \| ([\w, ]+) \|", README, re.MULTILINE
    ):
        for script in actual if scripts == "all" else scripts.split(", "):
            table[script][flag] = default
    assert table == {
        script: {flag: text(default) for flag, default in flags.items()}
        for script, flags in actual.items()
    }


def test_files_that_the_readme_names_are_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    named = re.findall(r"`((?:src|tests|examples)/[\w/.]+)`", README)
    assert links and named
    for name in (*links, *named):
        assert (ROOT / name).exists(), name
