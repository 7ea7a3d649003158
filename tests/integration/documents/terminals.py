"""The reader's terminals: the documents' commands as written, but for ports and folders.

What is changed, and nothing else:

* They run in a scratch folder that holds links to what is in the repository. So the files and
  checkpoints they write are not the user's.
* Scripts that name a broker get ``--bootstrap_servers`` with the test broker's port.
* ``examples/quickstart.py`` and ``examples/local_services.py`` get a folder of their own, which
  replaces ``build/demo`` in the commands after them.
* ``make TARGET`` is taken apart by ``make -n TARGET``, and what it would run is run with the same
  changes. Of ``make test`` the tests are only collected: this is one of them.
* The archive's ZooKeeper and broker are started from the jars of ``make setup``: the same classes
  with the archive's properties, on free ports. The steps then use this broker.
* ``yrctl`` is not run where the engine was running before the tests: it may be in use.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from examples.services.common import ROOT
from src.process.ports import free_port
from tests.docs.commands import IN_EVERY_TERMINAL
from tests.integration.pipeline import LONG

NOT_LINKED = (
    ".git",
    ".pytest_cache",
    "all_val",
    "bad.jsonl",
    "cat2id",
    "ckpt",
    "data_profile",
    "day_0",
    "grown",
    "logs",
    "loss.log",
    "metrics.jsonl",
    "output",
    "report",
)
NAMES_A_BROKER = (
    "kafka_client.py",
    "producer.py",
    "consumer.py",
    "online_train.py",
    "quickstart.py",
    "dead_letters.py",
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
LOG4J_PROPERTIES = """\
log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
"""
ARCHIVE_CLASSES = {
    "bin/zookeeper-server-start.sh": "org.apache.zookeeper.server.quorum.QuorumPeerMain",
    "bin/kafka-server-start.sh": "kafka.Kafka",
}


@dataclass
class Terminals:
    """Each command in a shell of its own, in the scratch folder.

    Attributes:
        folder: The scratch folder.
        port: The broker's.
        zookeeper_port: The one of the archive's ZooKeeper.
        done: The commands so far, as written in the documents.
        running: Their shells.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    zookeeper_port: int = field(default_factory=free_port)
    done: list[str] = field(default_factory=list)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def prepare(self) -> None:
        """Fills the folder: links into the repository, and the archive's properties."""
        for entry in ROOT.iterdir():
            if not entry.name.startswith(NOT_LINKED):
                (self.folder / entry.name).symlink_to(entry)
        values = {
            "folder": self.folder,
            "port": self.port,
            "zookeeper_port": self.zookeeper_port,
        }
        for name, text in (
            ("zookeeper.properties", ZOOKEEPER_PROPERTIES),
            ("server.properties", BROKER_PROPERTIES),
            ("log4j.properties", LOG4J_PROPERTIES),
        ):
            (self.folder / name).write_text(text.format(**values))

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Starts a command; its output goes to files named after its number."""
        self.done.append(command)
        return self._launch(self._with_our_ports_and_folders(command))

    def run(self, command: str, timeout: float = LONG) -> str:
        """Runs a command to its end and returns its stdout; fails unless the exit code is 0."""
        process = self.start(command)
        assert process.wait(timeout) == 0, self.output(process)
        return self.stdout(process)

    def make(self, command: str, replaced: Callable[[str], str] = str) -> str:
        """Runs what ``make -n`` lists for a target; returns the last command's stdout."""
        self.done.append(command)
        dry = subprocess.run(
            ["make", "-n", "--no-print-directory", *shlex.split(command)[1:]],
            cwd=ROOT,
            env=_environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        stdout = ""
        for line in dry.stdout.splitlines():
            process = self._launch(self._with_our_ports_and_folders(replaced(line)))
            assert process.wait(LONG) == 0, self.output(process)
            stdout = self.stdout(process)
        return stdout

    def stdout(self, process: subprocess.Popen[bytes]) -> str:
        return self._path(process, "out").read_text(errors="replace")

    def output(self, process: subprocess.Popen[bytes]) -> str:
        """Stdout and stderr."""
        return self.stdout(process) + self._path(process, "err").read_text(errors="replace")

    def press_ctrl_c(self, process: subprocess.Popen[bytes], within: float) -> None:
        """Sends SIGINT to all that runs in the terminal; fails unless it ends in time, with 0."""
        assert process.poll() is None, self.output(process)
        pressed = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert self._ended(process) == 0, self.output(process)
        assert time.monotonic() - pressed < within

    def close(self) -> None:
        """Ends what still runs, the newest first."""
        for process in reversed(self.running):
            if process.poll() is not None:
                continue
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        """Its exit code; one that hangs says where, as SIGABRT has Python print its threads."""
        try:
            return process.wait(LONG)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)
            return process.wait()

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
        command = command.replace("build/demo/", f"{self.folder}/demo/")
        services = f"--kafka_port={self.port} --data_dir={self.folder}/services"
        return re.sub(r"(examples/local_services\.py \w+)", rf"\1 {services}", command)


def _environment() -> dict[str, str]:
    """A shell's environment: no make around it, and no COLUMNS, which shells do not export.

    Python's fault handler is on, for ``press_ctrl_c``.
    """
    ours = ("MAKE", "COLUMNS")
    shell = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**shell, "PYTHONFAULTHANDLER": "1"}
