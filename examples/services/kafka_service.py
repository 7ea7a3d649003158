"""One Apache Kafka broker on this machine, in KRaft mode."""

from __future__ import annotations

import logging
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from examples.services.common import HOST, ROOT, ServiceError, last_lines
from src.process.child_processes import ended_with_parent
from src.process.ports import free_port, listening_ports

logger = logging.getLogger(__name__)

# Waits, in seconds. The broker is up in 4 to 8 s on two idle cores.
KAFKA_START_TIMEOUT = 90.0
KAFKA_STOP_TIMEOUT = 20.0

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
    """Asks for the cluster's brokers; returns whether at least one is at work.

    It writes the request itself: a client library would log every refusal and leave sockets open.

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

    It listens on 127.0.0.1 only. After a stop or a kill it starts again on the same data. If a
    broker answers at the port already, that one is used and never stopped.

    Args:
        data_dir: folder for the broker's data, configuration and log (at most 30 MB).
        port: the port clients connect to.
        detached: whether the broker outlives this process; else it is killed with it.
        jars_dir: folder with Kafka's jars, as ``make setup`` fetches them.
        properties: settings of the broker that differ from ours.

    Attributes:
        started_here: whether the running broker was started by this object.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 9092,
        detached: bool = False,
        jars_dir: Path = ROOT / "build" / "kafka",
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.port = port
        self.detached = detached
        self.jars_dir = Path(jars_dir)
        self._properties = dict(properties or {})
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
            logger.info("using the Kafka broker at %s", self.bootstrap_servers)
            return
        self._write_configuration()
        self._format_storage()
        self._process = self._launch("kafka.Kafka", str(self._properties_file))
        try:
            self._wait_until_it_answers()
        except BaseException:  # Ctrl-C too: nothing half-started stays behind
            self.kill()
            raise
        logger.info("started Kafka at %s", self.bootstrap_servers)

    def stop(self) -> None:
        """Ends the broker if it was started here: by SIGTERM, and by SIGKILL after 20 s."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(KAFKA_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            logger.warning("Kafka did not end within %.0f s, killing it", KAFKA_STOP_TIMEOUT)
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
        ours = KAFKA_PROPERTIES.format(**values)
        others = "".join(f"{key}={value}\n" for key, value in self._properties.items())
        self._properties_file.write_text(ours + others)  # the last line of a key counts
        (self.data_dir / "log4j.properties").write_text(KAFKA_LOG4J.format(**values))

    def _format_storage(self) -> None:
        """Formats the data folder once: without its identity the broker refuses to start."""
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
                start_new_session=True,  # Ctrl-C in the terminal must not reach it: stop() ends it
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
        """The last lines of the broker's console output, or of its log where there are none."""
        return last_lines(self.data_dir / "kafka.out") or last_lines(self.data_dir / "kafka.log")
