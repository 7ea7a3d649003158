from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from examples.services import engine_service
from examples.services.common import ROOT, ServiceError, wait_until
from examples.services.engine_service import EngineService, engine_is_running, engine_processes
from examples.services.kafka_service import KafkaService, broker_answers
from src.process.ports import free_port, listening_ports
from tests.integration.conftest import TopicFactory


@contextlib.contextmanager
def python_process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs code in a process of its own, which is killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


class TestBroker:
    def test_answers_on_the_loopback_only_and_stop_leaves_no_process_and_no_port(
        self, tmp_path: Path
    ) -> None:
        service = KafkaService(tmp_path, free_port())
        service.start()
        assert service.pid is not None
        broker = psutil.Process(service.pid)
        listening = {
            (connection.laddr.ip.replace("::ffff:", ""), connection.laddr.port)
            for connection in broker.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }

        assert broker_answers(service.bootstrap_servers)
        assert {ip for ip, _ in listening} == {"127.0.0.1"}
        assert ("127.0.0.1", service.port) in listening

        service.stop()
        assert not broker.is_running()
        assert not {port for _, port in listening} & listening_ports()
        assert not broker_answers(service.bootstrap_servers)

    def test_keeps_topics_and_rows_through_a_kill(self, tmp_path: Path) -> None:
        with KafkaService(tmp_path, free_port()) as service:
            address = service.bootstrap_servers
            admin = KafkaAdminClient(bootstrap_servers=address)
            admin.create_topics({"kept": {"num_partitions": 1, "replication_factor": 1}})
            admin.close()
            producer = KafkaProducer(bootstrap_servers=address, acks="all")
            producer.send("kept", b"row").get(30)
            producer.close()

            service.kill()
            assert not broker_answers(address)
            service.start()

            consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
            consumer.assign([TopicPartition("kept", 0)])
            assert next(consumer).value == b"row"
            consumer.close()

    def test_that_runs_already_is_used_and_not_stopped(
        self, kafka_service: KafkaService, tmp_path: Path
    ) -> None:
        with KafkaService(tmp_path, kafka_service.port) as second:
            assert not second.started_here
            with pytest.raises(ServiceError, match="started here"):
                second.kill()
        assert broker_answers(kafka_service.bootstrap_servers)
        assert not list(tmp_path.iterdir())

    def test_dies_with_the_killed_process_that_started_it(self, tmp_path: Path) -> None:
        code = """
            import sys, time
            from pathlib import Path
            from examples.services.kafka_service import KafkaService
            service = KafkaService(Path(sys.argv[1]), int(sys.argv[2]))
            service.start()
            print(service.pid, flush=True)
            time.sleep(600)
        """
        with python_process(code, str(tmp_path), str(free_port())) as parent:
            broker = psutil.Process(int(line_of(parent)))
            assert broker.is_running()
            parent.send_signal(signal.SIGKILL)
            assert not psutil.wait_procs([broker], timeout=10)[1]

    def test_that_cannot_start_is_reported_with_its_own_words(self, tmp_path: Path) -> None:
        (tmp_path / "kafka-data").mkdir()
        (tmp_path / "kafka-data" / "meta.properties").write_text(
            "version=1\ncluster.id=b25saW5lLWxlYXJuaW5nIQ\nnode.id=7\n"
        )
        service = KafkaService(tmp_path, free_port())
        with pytest.raises(ServiceError, match=r"(?s)ended at once.*node id"):
            service.start()
        assert not service.started_here

    def test_is_not_expected_where_another_program_listens(self, tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            threading.Thread(target=lambda: other.accept()[0].close()).start()
            port = other.getsockname()[1]
            with pytest.raises(ServiceError, match=f"port {port} is taken"):
                KafkaService(tmp_path, port).start()

    def test_without_its_jars_names_the_command_that_fetches_them(self, tmp_path: Path) -> None:
        with pytest.raises(ServiceError, match="make setup"):
            KafkaService(tmp_path, free_port(), jars_dir=tmp_path).start()


class TestTopicFixture:
    def test_makes_topics_of_different_names_with_the_partitions_asked_for(
        self, topic: TopicFactory, kafka_service: KafkaService
    ) -> None:
        one, three = topic(num_partitions=1), topic(num_partitions=3)
        consumer = KafkaConsumer(bootstrap_servers=kafka_service.bootstrap_servers)
        assert consumer.partitions_for_topic(one) == {0}
        assert consumer.partitions_for_topic(three) == {0, 1, 2}
        consumer.close()


class TestEngine:
    def test_that_runs_already_is_used_and_not_stopped(self, engine: EngineService) -> None:
        before = {process.pid for process in engine_processes()}
        with EngineService() as second:
            assert not second.started_here
        assert engine_is_running()
        assert {process.pid for process in engine_processes()} == before

    def test_names_a_port_that_another_program_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_service, "engine_processes", lambda: [])
        monkeypatch.setattr(engine_service, "listening_ports", lambda: {80, 31501})
        with pytest.raises(ServiceError, match="port 31501"):
            EngineService().start()

    @pytest.mark.parametrize("ending", ["killed", "orderly"])
    def test_is_stopped_once_however_its_starter_ends(self, tmp_path: Path, ending: str) -> None:
        calls = tmp_path / "calls"
        yrctl = tmp_path / "yrctl"
        yrctl.write_text(f'#!/bin/sh\necho "$1" >>"{calls}"\n')
        yrctl.chmod(0o700)
        code = """
            import sys, time
            from pathlib import Path
            from examples.services import engine_service
            engine_service._yrctl_path = lambda: Path(sys.argv[1])
            engine_service.engine_processes = lambda: []
            engine_service.listening_ports = lambda: set()
            engine_service.engine_is_running = lambda: True
            service = engine_service.EngineService()
            service.start()
            print(service._guard.pid, flush=True)
            if sys.argv[2] == "orderly":
                service.stop()
            else:
                time.sleep(600)
        """
        with python_process(code, str(yrctl), ending) as parent:
            guard = psutil.Process(int(line_of(parent)))
            if ending == "killed":
                assert calls.read_text().split() == ["start"]
                parent.send_signal(signal.SIGKILL)
            assert not psutil.wait_procs([guard], timeout=10)[1]
        assert calls.read_text().split() == ["start", "stop"]

    def test_failing_to_start_is_reported_with_the_words_of_yrctl(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        yrctl = tmp_path / "yrctl"
        yrctl.write_text('#!/bin/sh\n[ "$1" = stop ] || { echo "no luck today"; exit 3; }\n')
        yrctl.chmod(0o700)
        monkeypatch.setattr(engine_service, "_yrctl_path", lambda: yrctl)
        monkeypatch.setattr(engine_service, "engine_processes", lambda: [])
        monkeypatch.setattr(engine_service, "listening_ports", lambda: set())
        service = EngineService()
        with pytest.raises(ServiceError, match=r"(?s)exit code 3.*no luck today"):
            service.start()
        assert not service.started_here


class TestCommandLine:
    def test_down_stops_what_up_started_and_nothing_else(
        self, tmp_path: Path, engine: EngineService
    ) -> None:
        port = free_port()

        def run(action: str) -> subprocess.CompletedProcess[str]:
            script = str(ROOT / "examples" / "local_services.py")
            options = ["--kafka_port", str(port), "--data_dir", str(tmp_path)]
            return subprocess.run(
                [sys.executable, script, action, *options],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        try:
            assert run("status").returncode == 1
            assert run("up").returncode == 0
            assert broker_answers(f"127.0.0.1:{port}"), "it has to outlive the command"
            assert "using the Kafka broker" in run("up").stderr
            assert run("status").returncode == 0
        finally:
            down = run("down")
        assert "stopped Kafka" in down.stderr
        assert port not in listening_ports()
        assert wait_until(engine_is_running, timeout=0), "up found it running: down has to leave it"
        again = run("down")
        assert (again.returncode, again.stderr) == (0, "")
