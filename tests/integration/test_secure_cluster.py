"""Logins, certificates and rights against a real broker, for each way to connect."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

import kafka_client
import producer
from examples import dead_letters
from examples.demo.script import Script
from examples.sample.rows import write_sample
from examples.services.common import wait_until
from examples.services.engine_service import EngineService
from src.cluster.access import AccessError, Needs, check_access
from src.cluster.broker import SourceError
from src.cluster.settings import ClientSettings, client_settings
from src.dead_letters.dead_letters import DeadLetterWriter, read_dead_letters
from src.process.ports import free_port
from src.stream.position import Commit, Position
from src.stream.row_source import RowSource
from tests.cluster.certificates import KEY_PASSWORD, Authority
from tests.integration.crashes import count_rows
from tests.integration.pipeline import (
    BATCH_SIZE,
    LONG,
    DictionaryFiles,
    Pipeline,
    assert_ends,
    assert_stops,
    sample_files,
)
from tests.integration.secure_broker import PASSWORD, UNREACHABLE, SecureBroker, secure_broker

QUICK = 4.0  # seconds; a refusal is known at once, and retries would take ten
NO_LOGIN = ("sasl.mechanism=", "sasl.username=", "sasl.password=")
TLS = ("security.protocol=SSL", *NO_LOGIN)
PLAINTEXT = ("security.protocol=PLAINTEXT", "ssl.ca.location=", *NO_LOGIN)
OPEN = ("security.protocol=SASL_PLAINTEXT", "ssl.ca.location=")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    with secure_broker(tmp_path_factory.mktemp("secure")) as made:
        yield made


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("sasl.mechanism=SCRAM-SHA-512",),
        ("sasl.mechanism=PLAIN", "sasl.password=alice-secret"),
    ],
    ids=["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"],
)
def test_each_mechanism_logs_in(
    broker: SecureBroker, tmp_path: Path, lines: tuple[str, ...], own_logging: None
) -> None:
    properties = broker.properties(tmp_path, f"bootstrap.servers={broker.address('login')}", *lines)
    assert kafka_client.main([f"--kafka_config={properties}", "--topic=logged_in"]) == 0


@pytest.mark.parametrize(
    ("listener", "lines", "line"),
    [
        ("login", ("sasl.password=wrong",), "refuses the login of alice: Authentication failed"),
        (
            "login",
            ("sasl.mechanism=PLAIN", "sasl.password=wrong"),
            "refuses the login of alice: .*Invalid username or password",
        ),
        ("open_login", (*OPEN, "sasl.password=wrong"), "refuses the login of alice"),
        ("expired", TLS, "the certificate of {address} has expired"),
        ("elsewhere", TLS, "the certificate of {address} is for another host"),
        ("mutual", TLS, "asks for a client's certificate: set ssl.certificate.location"),
        ("tls", (*TLS, "ssl.ca.location={other}"), "{address} is signed by none that is trusted"),
        ("plaintext", TLS, "speaks no TLS, but security.protocol is SSL"),
        ("plaintext", (), "speaks no TLS, but security.protocol is SASL_SSL"),
        ("tls", PLAINTEXT, "speaks TLS, but security.protocol is PLAINTEXT"),
        ("login", OPEN, "speaks TLS, but .* is SASL_PLAINTEXT"),
        ("login", TLS, "wants a login, but security.protocol is SSL, not SASL_SSL"),
        ("open_login", PLAINTEXT, "wants a login, but .* is PLAINTEXT, not SASL_PLAINTEXT"),
        ("tls", (), "takes no login, but security.protocol is SASL_SSL"),
        (
            "lost",
            PLAINTEXT,
            rf"can't be reached from here .advertised.listeners.: {UNREACHABLE}:9092",
        ),
    ],
)
def test_each_refusal_is_one_line_at_once(
    broker: SecureBroker,
    tmp_path: Path,
    listener: str,
    lines: tuple[str, ...],
    line: str,
    own_logging: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = Authority(tmp_path, "other").file
    address = broker.address(listener)
    properties = broker.properties(tmp_path, *(each.format(other=other) for each in lines))
    began = time.monotonic()
    flags = [f"--kafka_config={properties}", f"--bootstrap_servers={address}", "--topic=refused"]
    assert kafka_client.main(flags) == 1
    assert time.monotonic() - began < QUICK
    (logged,) = capsys.readouterr().err.splitlines()
    assert re.search(line.format(address=address), logged)
    assert "wrong" not in logged


def test_a_client_with_a_certificate_is_let_in(broker: SecureBroker, tmp_path: Path) -> None:
    client = broker.client
    for lines in (
        (f"ssl.certificate.location={client.chain}", f"ssl.key.location={client.key}"),
        (f"ssl.keystore.location={client.both}", "ssl.keystore.type=PEM"),
        (
            f"ssl.certificate.location={client.chain}",
            f"ssl.key.location={client.encrypted_key}",
            f"ssl.key.password={KEY_PASSWORD}",
        ),
    ):
        properties = broker.properties(tmp_path, *TLS, *lines)
        settings = client_settings(broker.address("mutual"), str(properties))
        check_access(settings, Needs(), QUICK)


def test_the_host_name_is_checked_unless_told_otherwise(
    broker: SecureBroker, tmp_path: Path
) -> None:
    properties = broker.properties(tmp_path, *TLS)
    properties.write_text(properties.read_text() + "ssl.endpoint.identification.algorithm=\n")
    check_access(client_settings(broker.address("elsewhere"), str(properties)), Needs(), QUICK)


def test_rows_flow_over_tls_and_a_login_and_the_position_is_committed(
    broker: SecureBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.tsv"
    write_sample([rows], 400)
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    properties = broker.properties(
        tmp_path, "sasl.password=${KAFKA_PASSWORD}", f"bootstrap.servers={broker.address('login')}"
    )
    flags = (f"--kafka_config={properties}", "--topic=flow")
    assert kafka_client.main(flags) == 0
    script = Script(
        "producer",
        [*flags, f"--file1={rows}", "--file2=", "--rate=400", "--compression_type=zstd"],
        tmp_path / "producer.log",
    )
    settings = client_settings("localhost:9092", str(properties))
    try:
        assert wait_until(lambda: len(psutil.Process(script.process.pid).children()) > 1, 60)
        seen = command_lines(script)
        assert script.wait(60) == 0, script.log()
    finally:
        script.stop()
    assert len(seen) > 1
    assert not any("it's" in line for line in [*seen, script.log()])
    with RowSource(settings, "flow", "flow") as source:
        source.seek(Position({0: 0, 1: 0}))
        give_up_at = time.monotonic() + 30
        while source.waiting() < 400 and time.monotonic() < give_up_at:
            source.poll(0.1)
        values = [line + b"\n" for line in source.held(400)[0].values if line is not None]
        assert b"".join(values) == rows.read_bytes()
        source.commit(Commit(Position({0: 400, 1: 0}), 7))
        committed = source.committed()
        assert committed is not None
        assert committed.position == Position({0: 400, 1: 0})


def command_lines(script: Script) -> list[str]:
    """Those of a script and of its child processes."""
    parent = psutil.Process(script.process.pid)
    return [" ".join(each.cmdline()) for each in [parent, *parent.children(recursive=True)]]


@pytest.fixture
def admin(broker: SecureBroker) -> Iterator[KafkaAdminClient]:
    """A superuser."""
    with contextlib.closing(
        KafkaAdminClient(bootstrap_servers=broker.service.bootstrap_servers)
    ) as made:
        yield made


Right = tuple[ACLOperation, ResourceType, str]
READ_ROWS: Right = (ACLOperation.READ, ResourceType.TOPIC, "rows")
WRITE_ROWS: Right = (ACLOperation.WRITE, ResourceType.TOPIC, "rows")
READ_GROUP: Right = (ACLOperation.READ, ResourceType.GROUP, "readers")
WRITE_DEAD: Right = (ACLOperation.WRITE, ResourceType.TOPIC, "rows.dead")
CREATE_DEAD: Right = (ACLOperation.CREATE, ResourceType.TOPIC, "rows.dead")
READ_DEAD: Right = (ACLOperation.READ, ResourceType.TOPIC, "rows.dead")


def grant(admin: KafkaAdminClient, *rights: Right) -> None:
    entries = [
        ACL("User:bob", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
        for operation, kind, name in rights
    ]
    assert not admin.create_acls(entries)["failed"]
    time.sleep(0.3)  # until the broker, which hears of it as of any other change, has them


def test_a_missing_right_is_named_at_the_start_by_who_needs_it(
    broker: SecureBroker,
    admin: KafkaAdminClient,
    tmp_path: Path,
    own_logging: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = tmp_path / "rows.tsv"
    write_sample([rows], 10)
    properties = broker.properties(
        tmp_path, f"bootstrap.servers={broker.address('login')}", user="bob"
    )
    bob = client_settings("localhost:9092", str(properties))
    flags = [f"--kafka_config={properties}", "--topic=rows"]
    files = [f"--file1={rows}", "--file2="]

    def missing() -> str:
        with pytest.raises(SourceError, match="bob lacks rights at") as caught:
            RowSource(bob, "rows", "readers", 5).close()
        return str(caught.value)

    assert kafka_client.main(flags) == 1
    assert "the right Create on topic rows is missing" in capsys.readouterr().err
    admin.create_topics({"rows": {"num_partitions": 2, "replication_factor": 1}})
    assert producer.main([*flags, *files]) == 1
    assert "Write on topic rows;" in capsys.readouterr().err
    assert "Read on topic rows, Read on group readers;" in missing()

    grant(admin, READ_ROWS)
    assert kafka_client.main(flags) == 0  # nothing has to be created
    assert kafka_client.main([*flags, "--num_partitions=3"]) == 1
    assert "the right Alter on topic rows is missing" in capsys.readouterr().err
    assert "bob lacks rights at" in missing() and "topic rows," not in missing()
    grant(admin, READ_GROUP, WRITE_ROWS)
    RowSource(bob, "rows", "readers", 5).close()
    assert producer.main([*flags, *files]) == 0

    writer = DeadLetterWriter(bob, "rows", 5)
    for rights, named in (
        ((), "Write on topic rows.dead, Create on topic rows.dead"),
        ((WRITE_DEAD,), "Create on topic rows.dead"),
    ):
        grant(admin, *rights)
        with pytest.raises(SourceError, match=named):
            writer.check_rights()
    grant(admin, CREATE_DEAD)
    writer.check_rights()
    capsys.readouterr()
    assert dead_letters.main(["count", *flags]) == 1
    assert "Read on topic rows.dead" in capsys.readouterr().err
    grant(admin, READ_DEAD)
    assert dead_letters.main(["count", *flags]) == 0


def test_a_wrong_password_ends_consumer_and_trainer_with_one_line_though_nobody_else_runs(
    broker: SecureBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "guessed wrong")
    properties = broker.properties(
        tmp_path, "sasl.password=${KAFKA_PASSWORD}", f"bootstrap.servers={broker.address('login')}"
    )
    dictionaries, address = DictionaryFiles.make(tmp_path), broker.service.bootstrap_servers
    with Pipeline(tmp_path, address, dictionaries, 1, "rows", properties) as pipeline:
        scripts = [pipeline.consumer(), pipeline.trainer()]
        for script in scripts:
            assert script.wait(LONG) == 1, script.log()
            (line,) = re.findall("^.* (?:WARNING|ERROR) .*$", script.log(), re.MULTILINE)
            assert f"{broker.address('login')} refuses the login of alice" in line
            assert "Traceback" not in script.log()
            assert "guessed" not in script.log()


@pytest.mark.clusters
@pytest.mark.slow
def test_rows_are_trained_over_tls_with_a_login_and_the_documented_rights_alone(
    broker: SecureBroker,
    admin: KafkaAdminClient,
    engine: EngineService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_logging: None,
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    properties = broker.properties(
        tmp_path,
        "sasl.password=${KAFKA_PASSWORD}",
        f"bootstrap.servers={broker.address('login')}",
        user="bob",
    )
    files = sample_files(tmp_path, 4 * BATCH_SIZE, 2)
    lines = files[1].read_bytes().splitlines(keepends=True)
    files[1].write_bytes(b"".join([*lines[:30], b"1\tbad row\n", *lines[30:]]))
    dictionaries = DictionaryFiles.make(tmp_path)
    topic, address = "secured", broker.service.bootstrap_servers
    with Pipeline(tmp_path, address, dictionaries, 2, topic, properties) as pipeline:
        grant(admin, *documented_rights(topic, pipeline.name))
        assert kafka_client.main([f"--kafka_config={properties}", f"--topic={topic}"]) == 0
        ports = free_port(), free_port()
        consumer = pipeline.consumer("--window_seconds=0.2", f"--metrics_port={ports[0]}")
        trainer = pipeline.trainer("--save_checkpoint_steps=1", f"--metrics_port={ports[1]}")
        producer = pipeline.producer(files)
        end = {0: 2 * BATCH_SIZE, 1: 2 * BATCH_SIZE + 1}
        assert wait_until(lambda: pipeline.committed() == end, LONG, 0.2), trainer.log()
        seen = [line for script in (consumer, trainer) for line in command_lines(script)]
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
                seen.append(page.read().decode())
        assert_ends(producer)
        assert_stops(trainer, signal.SIGTERM, within=10)
        assert_stops(consumer, signal.SIGTERM, within=10)
        trained = count_rows(pipeline.audit())
        assert sum(rows.rows for rows in pipeline.audit()) == 4 * BATCH_SIZE
        trained[(1, 30)] = 1  # it lies inside of a range or between two
        assert trained == {(part, offset): 1 for part in end for offset in range(end[part])}
        (letter,) = read_dead_letters(address, topic)
        assert (letter.partition, letter.offset, letter.value) == (1, 30, b"1\tbad row")
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 15
    assert not any(SECRET in text.encode() for text in seen)
    assert not any(SECRET in content for content in written)


SECRET = PASSWORD[:9].encode()  # JSON would write the rest of it in another way


def documented_rights(topic: str, group: str) -> list[Right]:
    """What docs/clusters.md lists for the steps from kafka_client.py to online_train.py."""
    dead = f"{topic}.dead"
    return [
        (ACLOperation.CREATE, ResourceType.TOPIC, topic),
        (ACLOperation.WRITE, ResourceType.TOPIC, topic),
        (ACLOperation.READ, ResourceType.TOPIC, topic),
        (ACLOperation.WRITE, ResourceType.TOPIC, dead),
        (ACLOperation.CREATE, ResourceType.TOPIC, dead),
        (ACLOperation.READ, ResourceType.GROUP, group),
        (ACLOperation.READ, ResourceType.GROUP, f"{group}.consumer"),
    ]


def test_a_right_that_is_taken_away_ends_the_wait(
    broker: SecureBroker, admin: KafkaAdminClient, tmp_path: Path
) -> None:
    admin.create_topics({"taken": {"num_partitions": 1, "replication_factor": 1}})
    grant(admin, (ACLOperation.READ, ResourceType.TOPIC, "taken"), (*READ_GROUP[:2], "taken"))
    properties = broker.properties(tmp_path, user="bob")
    bob = client_settings(broker.address("login"), str(properties))
    with RowSource(bob, "taken", "taken", 60) as source:
        source.commit(Commit(Position({0: 0}), 1))
        admin.delete_acls(
            [
                ACL(
                    "User:bob",
                    "*",
                    ACLOperation.READ,
                    ACLPermissionType.ALLOW,
                    ResourcePattern(ResourceType.GROUP, "taken"),
                )
            ]
        )
        time.sleep(0.3)
        began = time.monotonic()
        with pytest.raises(SourceError, match="is refused: .*GroupAuthorizationFailed"):
            source.commit(Commit(Position({0: 0}), 1))
        assert time.monotonic() - began < QUICK


def test_a_port_that_is_no_broker_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_as_a_web_server, args=(server,), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(AccessError, match=f"{address} answers, but is no Kafka broker"):
            check_access(ClientSettings.of(address), Needs(), QUICK)


def answer_as_a_web_server(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
