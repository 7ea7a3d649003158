"""Starts and stops what the example needs on this machine: Apache Kafka and the yr engine.

On the command line::

    python examples/local_services.py up|down|status [--kafka_port 9092] [--data_dir DIR]

``up`` leaves both running and notes what it started, ``down`` stops exactly that. In code the two
classes are context managers and stop what they started when the block ends::

    with KafkaService(Path("build/services")) as kafka, EngineService():
        print(kafka.bootstrap_servers)

What is running already is used as it is and never stopped. What was started in code does not
outlive the process that started it, not even when that process is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Callable, NamedTuple

import psutil

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.process.child_processes import ended_with_parent
from src.process.ports import free_port, listening_ports

LOGGER = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"  # neither service is offered to the network by us

# Waits, in seconds. The broker is up in 4 to 8 s and the engine in 7 s on two idle cores.
KAFKA_START_TIMEOUT = 90.0
KAFKA_STOP_TIMEOUT = 20.0
ENGINE_COMMAND_TIMEOUT = 120.0
ENGINE_SETTLE_TIMEOUT = 20.0


class ServiceError(RuntimeError):
    """A service cannot be started or used; the message says why and what to do."""


# --- processes and ports -------------------------------------------------------------------------


class ProcessId(NamedTuple):
    """A process as a number that may be used again and a start time that tells whether it was."""

    pid: int
    create_time: float  # seconds since the epoch

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Returns the identity of a running process; raises ``psutil.NoSuchProcess``."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """Returns the process, or None if it is gone (a zombie counts as gone)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def wait_until(condition: Callable[[], bool], timeout: float, interval: float = 0.1) -> bool:
    """Polls ``condition`` for up to ``timeout`` seconds; returns whether it came true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def _last_lines(path: Path, count: int = 15) -> str:
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])


# --- Kafka ---------------------------------------------------------------------------------------

KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data_dir}/kafka-data
num.network.threads=2
num.io.threads=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=5000
broker.heartbeat.interval.ms=1000
log.cleaner.dedupe.buffer.size=16777216
"""

KAFKA_LOG4J = """\
log4j.rootLogger=INFO, file
log4j.appender.file=org.apache.log4j.RollingFileAppender
log4j.appender.file.File={data_dir}/kafka.log
log4j.appender.file.MaxFileSize=10MB
log4j.appender.file.MaxBackupIndex=2
log4j.appender.file.layout=org.apache.log4j.PatternLayout
log4j.appender.file.layout.ConversionPattern=%d %p %m (%c)%n
"""

# A heap that suits one small topic; the quick compiler alone halves the time to start.
JVM_OPTIONS = ("-Xms128m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def broker_answers(bootstrap_servers: str, timeout: float = 5.0) -> bool:
    """Asks for the cluster's brokers; returns whether at least one has taken up its work.

    It speaks the protocol itself: a client library would log every refusal and leave sockets open.

    Args:
        bootstrap_servers: ``host:port`` of the broker.
        timeout: seconds to wait for the answer.
    """
    host, port = bootstrap_servers.rsplit(":", 1)
    metadata_request, version, correlation_id, client_id = 3, 1, 1, b"local_services"
    request = struct.pack(">hhih", metadata_request, version, correlation_id, len(client_id))
    request += client_id + struct.pack(">i", 0)  # asking about no topics
    try:
        with socket.create_connection((host, int(port)), timeout) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as answer:
                _size, answered_id, brokers = struct.unpack(">iii", answer.read(12))
    except (OSError, struct.error):  # refused, silent, or closed too early
        return False
    return bool(answered_id == correlation_id and brokers > 0)


class KafkaService:
    """One Apache Kafka broker in KRaft mode, with its data in a private folder.

    It listens on 127.0.0.1 only and starts again on the data it left, whether it was stopped or
    killed. If a broker answers at the port already, that one is used and never stopped.

    Args:
        data_dir: folder for the broker's data, configuration and log (at most 30 MB).
        port: the port clients connect to.
        detached: let the broker outlive this process (else it is killed with it).
        jars_dir: folder with Kafka's jars, as ``make setup`` fetches them.

    Attributes:
        started_here: whether the running broker was started by this object.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 9092,
        detached: bool = False,
        jars_dir: Path = ROOT / "build" / "kafka",
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.port = port
        self.detached = detached
        self.jars_dir = Path(jars_dir)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The address for Kafka clients, ``host:port``."""
        return f"{HOST}:{self.port}"

    @property
    def started_here(self) -> bool:
        """Whether this object started a broker and has not stopped it."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The broker's process id, None when it was not started here."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the broker and returns when it answers; uses one that answers already.

        Raises:
            ServiceError: the port is taken by something else, Java or the jars are missing, or the
                broker ended or did not answer in time (with the last lines of its log).
        """
        if self._process and self._process.poll() is None:
            return
        self._process = None
        if self.port in listening_ports():
            if not broker_answers(self.bootstrap_servers):
                raise ServiceError(f"port {self.port} is taken and no Kafka broker answers there")
            LOGGER.info("using the Kafka broker at %s", self.bootstrap_servers)
            return
        self._write_configuration()
        self._format_storage()
        self._process = self._launch("kafka.Kafka", str(self._properties_file))
        try:
            self._wait_until_it_answers()
        except BaseException:  # Ctrl-C too: nothing half-started stays behind
            self.kill()
            raise
        LOGGER.info("started Kafka at %s", self.bootstrap_servers)

    def stop(self) -> None:
        """Ends the broker if it was started here, orderly, or by force after 20 s."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(KAFKA_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            LOGGER.warning("Kafka did not end within %.0f s, killing it", KAFKA_STOP_TIMEOUT)
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """Ends the broker by SIGKILL, as a crash would.

        Raises:
            ServiceError: the broker was not started here.
        """
        if self._process is None:
            raise ServiceError("only a broker that was started here can be killed")
        self._process.kill()
        self._process.wait()
        self._process = None

    def __enter__(self) -> KafkaService:
        """Starts the broker."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the broker if it was started here."""
        self.stop()

    @property
    def _properties_file(self) -> Path:
        return self.data_dir / "server.properties"

    def _write_configuration(self) -> None:
        if shutil.which("java") is None:
            raise ServiceError("java is not on PATH: run `make setup`")
        if not any(self.jars_dir.glob("kafka_*.jar")):
            raise ServiceError(f"no Kafka jars in {self.jars_dir}: run `make setup`")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        values = {
            "host": HOST,
            "port": self.port,
            "controller_port": free_port(),
            "data_dir": self.data_dir,
        }
        self._properties_file.write_text(KAFKA_PROPERTIES.format(**values))
        (self.data_dir / "log4j.properties").write_text(KAFKA_LOG4J.format(**values))

    def _format_storage(self) -> None:
        """Gives the data folder its identity, once: without it the broker refuses to start."""
        if (self.data_dir / "kafka-data" / "meta.properties").exists():
            return
        cluster_id = "b25saW5lLWxlYXJuaW5nIQ"  # any 16 bytes in base64 do
        command = ("format", "--cluster-id", cluster_id, "--config", str(self._properties_file))
        process = self._launch("kafka.tools.StorageTool", *command)
        if process.wait(KAFKA_START_TIMEOUT) != 0:
            raise ServiceError(f"Kafka's storage can't be formatted:\n{self._last_output()}")

    def _launch(self, main_class: str, *arguments: str) -> subprocess.Popen[bytes]:
        log4j = f"-Dlog4j.configuration=file:{self.data_dir / 'log4j.properties'}"
        class_path = f"{self.jars_dir}/*"
        with open(self.data_dir / "kafka.out", "wb") as output:
            return subprocess.Popen(
                ["java", *JVM_OPTIONS, log4j, "-cp", class_path, main_class, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for us, we stop it orderly
                preexec_fn=None if self.detached else ended_with_parent(),
            )

    def _wait_until_it_answers(self) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + KAFKA_START_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServiceError(
                    f"Kafka ended at once (exit code {process.returncode}):\n{self._last_output()}"
                )
            if self.port in listening_ports() and broker_answers(self.bootstrap_servers):
                return
            time.sleep(0.1)
        raise ServiceError(
            f"Kafka did not answer within {KAFKA_START_TIMEOUT:.0f} s:\n{self._last_output()}"
        )

    def _last_output(self) -> str:
        """What the broker said last: on its console if it said anything there, else in its log."""
        return _last_lines(self.data_dir / "kafka.out") or _last_lines(self.data_dir / "kafka.log")


# --- the yr engine -------------------------------------------------------------------------------

# Some of the ports the engine always listens on. Not among them: the ones other programs like too.
ENGINE_PORTS = {
    21003: "bus proxy",
    12123: "data system master",
    31501: "data system worker",
    32379: "etcd",
}
ENGINE_PATH = "mindpandas/dist_executor/modules/"  # every daemon's executable lies under it
ENGINE_CPUS = 8  # an actor asks for half a core or more, however little it does
ENGINE_STORE_MB = 2048  # shared memory for windows under way; a window of 1000 rows takes 0.4 MB

# Run beside an engine that was started in code: when the pipe from the starting process closes
# with nothing in it, that process was killed, and the engine is stopped in its place.
ENGINE_GUARD = textwrap.dedent(
    """
    import os, subprocess, sys
    os.nice(10)
    if not sys.stdin.buffer.read(1):
        subprocess.run([sys.argv[1], "stop"], stdin=subprocess.DEVNULL)
    """
)


class EngineService:
    """The yr engine of MindPandas; there can be one on a host, as its ports are fixed.

    If one is running already it is used and never stopped. The engine's logs go to
    ``~/mindpandas/log``. Actors import modules from the folder the engine was started in, so it is
    started in the root of this repository.

    Args:
        address: the address the engine's daemons listen on and clients name.
        cpu: number of CPUs the engine believes in; at least 8 if None, as idle actors take a share.
        detached: let the engine outlive this process (else it is stopped when this process dies).

    Attributes:
        started_here: whether the running engine was started by this object.
    """

    def __init__(self, address: str = HOST, cpu: int | None = None, detached: bool = False) -> None:
        self.address = address
        self.cpu = cpu if cpu is not None else max(ENGINE_CPUS, os.cpu_count() or 1)
        self.detached = detached
        self.started_here = False
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the engine and returns when it is ready; uses one that runs already.

        Raises:
            ServiceError: another program has one of the engine's ports, or ``yrctl start`` failed.
        """
        if self._find_running():
            return
        self.started_here = True
        try:
            self._yrctl_start()
            if not self.detached:
                self._guard = self._start_guard()
        except BaseException:  # Ctrl-C too: nothing half-started stays behind
            self.stop()
            raise
        LOGGER.info("started the yr engine at %s", self.address)

    def stop(self) -> None:
        """Stops the engine if it was started here."""
        if not self.started_here:
            return
        stop_engine()
        self.started_here = False
        if self._guard:
            self._guard.communicate(b"done")
            self._guard = None

    def __enter__(self) -> EngineService:
        """Starts the engine."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the engine if it was started here."""
        self.stop()

    def _find_running(self) -> bool:
        """Returns whether an engine runs; removes the remains of one that does so no more."""
        if not engine_processes():
            taken = sorted(listening_ports() & set(ENGINE_PORTS))
            if taken:
                raise ServiceError(f"the yr engine needs port {taken[0]}, another program has it")
            return False
        # Not all ports are there while another process starts it.
        if wait_until(engine_is_running, ENGINE_SETTLE_TIMEOUT, 0.5):
            LOGGER.info("using the yr engine that is running")
            return True
        LOGGER.warning("removing the remains of a yr engine that ended")
        stop_engine()
        return False

    def _yrctl_start(self) -> None:
        memory_mb = psutil.virtual_memory().total >> 20
        store_mb = min(ENGINE_STORE_MB, int(memory_mb * 0.3))
        options = {
            "--address": self.address,
            "--cpu": self.cpu,
            "--datamem": store_mb,
            "--mem": int(memory_mb * 0.9),  # yrctl's own default, lost once --datamem is given
        }
        flags = [str(word) for option in options.items() for word in option]
        output = _yrctl("start", "--master", *flags)
        if not wait_until(engine_is_running, ENGINE_SETTLE_TIMEOUT):
            raise ServiceError(f"`yrctl start` left no running engine:\n{output}")

    def _start_guard(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", ENGINE_GUARD, str(_yrctl_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=_engine_environment(),
        )


def engine_processes() -> list[psutil.Process]:
    """Returns the engine's daemons, whoever started them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command: Sequence[str] = process.info["cmdline"] or ()
        if command and ENGINE_PATH in command[0]:
            found.append(process)
    return found


def engine_is_running() -> bool:
    """Returns whether the engine's daemons are there and listen on their ports."""
    return set(ENGINE_PORTS) <= listening_ports() and bool(engine_processes())


def stop_engine() -> None:
    """Stops the engine of this host, whoever started it.

    Raises:
        ServiceError: ``yrctl stop`` failed or a daemon can't be stopped.
    """
    output = _yrctl("stop")
    if wait_until(lambda: not engine_processes(), ENGINE_SETTLE_TIMEOUT):
        return
    for process in engine_processes():  # the remains of a start that went wrong, mostly
        LOGGER.warning("`yrctl stop` left %s running: killing it", process.info["cmdline"][0])
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if not wait_until(lambda: not engine_processes(), ENGINE_SETTLE_TIMEOUT):
        names = sorted({Path(process.info["cmdline"][0]).name for process in engine_processes()})
        raise ServiceError(f"`yrctl stop` left {', '.join(names)} running:\n{output}")


def _yrctl_path() -> Path:
    path = Path(sys.executable).with_name("yrctl")
    if not path.exists():
        raise ServiceError(f"no yrctl beside {sys.executable}: run `make setup` and use .venv")
    return path


def _engine_environment() -> dict[str, str]:
    """The environment for yrctl and, through it, for the engine's daemons."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    environment = {
        # Else the data system logs 25 KB a window, up to 25 files of 400 MB.
        "GLOG_minloglevel": "1",
        "GLOG_max_log_size": "20",
        **os.environ,
        "PATH": path,  # yrctl's scripts call `python` and want it to be this one
    }
    # `yrctl stop` looks for its daemons in what ps prints, which ends at the column named here.
    environment.pop("COLUMNS", None)
    return environment


def _yrctl(*arguments: str) -> str:
    """Runs yrctl in the repository's root and returns the end of what it said."""
    with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as the daemons live
        try:
            code = subprocess.run(
                [str(_yrctl_path()), *arguments],
                cwd=ROOT,
                env=_engine_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=ENGINE_COMMAND_TIMEOUT,
                start_new_session=True,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        output.seek(0)
        said = "\n".join(output.read().decode(errors="replace").splitlines()[-25:])
    if code != 0:
        raise ServiceError(f"`yrctl {' '.join(arguments)}` failed (exit code {code}):\n{said}")
    return said


# --- the command line ----------------------------------------------------------------------------


class StartedRecord:
    """Notes in a file which processes `up` started, so that `down` stops those and no others."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, pids: Sequence[int]) -> None:
        """Notes running processes."""
        self.path.write_text(json.dumps([ProcessId.of(pid) for pid in pids]))

    def processes(self) -> list[psutil.Process]:
        """Returns the noted processes that still run."""
        if not self.path.exists():
            return []
        noted = (ProcessId(*fields) for fields in json.loads(self.path.read_text()))
        return [process for process in (each.process() for each in noted) if process]

    def clear(self) -> None:
        """Forgets what was noted."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


class LocalServices:
    """Both services as the command line handles them: left running, noted in files.

    Args:
        data_dir: folder for Kafka's data and the notes.
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
        """Stops what `up` started, as far as it still runs."""
        if self._engine_record.processes():
            stop_engine()
            LOGGER.info("stopped the yr engine")
        self._engine_record.clear()
        for broker in self._kafka_record.processes():
            broker.terminate()
            if psutil.wait_procs([broker], KAFKA_STOP_TIMEOUT)[1]:
                broker.kill()
                broker.wait()
            LOGGER.info("stopped Kafka")
        self._kafka_record.clear()

    def status(self) -> bool:
        """Logs what runs; returns whether both do."""
        kafka_runs = broker_answers(self.kafka.bootstrap_servers)
        engine_runs = engine_is_running()
        for name, runs in (
            (f"Kafka at {self.kafka.bootstrap_servers}", kafka_runs),
            ("the yr engine", engine_runs),
        ):
            LOGGER.info("%s: %s", name, "running" if runs else "not running")
        return kafka_runs and engine_runs


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description="Start, stop or look at Apache Kafka and the yr engine on this machine."
    )
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument(
        "--kafka_port", type=int, default=9092, help="the broker's port (%(default)s)"
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        default=ROOT / "build" / "services",
        help="folder for Kafka's data and for notes of what was started (build/services)",
    )
    parser.add_argument(
        "--address", default=HOST, help="address the engine listens on (%(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one action; returns 0, or 1 if it failed or `status` found a service not running."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    services = LocalServices(args.data_dir, args.kafka_port, args.address)
    try:
        if args.action == "status":
            return 0 if services.status() else 1
        services.up() if args.action == "up" else services.down()
    except ServiceError as error:
        LOGGER.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
