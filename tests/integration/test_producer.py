"""producer.py as a process: every row of the files ends up in its partition, once and in order."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka import KafkaConsumer, TopicPartition

from examples.demo.script import Script
from examples.services.common import ROOT, wait_until
from examples.services.kafka_service import KafkaService
from src.cluster.topic import ensure_topic
from src.process.ports import free_port
from src.rows.criteo import COLUMNS
from src.stream import produce
from src.stream.produce import ProduceError
from tests.integration.conftest import TopicFactory
from tests.integration.pipeline import assert_ends, assert_nothing_left, assert_stops, sample_files

PRODUCED = re.compile(r"produced (\d+) rows from (\d) files in [\d.]+ s \(\d+ rows/s\)")


class Message(NamedTuple):
    key: bytes | None
    value: bytes | None


@contextlib.contextmanager
def run(
    folder: Path, address: str, topic: str, files: Sequence[Path], *flags: str
) -> Iterator[Script]:
    names = [f"--file{number}={path}" for number, path in enumerate(files, start=1)]
    names += ["--file2="] if len(files) == 1 else []
    where = (f"--bootstrap_servers={address}", f"--topic={topic}")
    script = Script("producer", (*where, *names, *flags), folder / "producer.log", cwd=folder)
    try:
        yield script
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.process.pid, signal.SIGKILL)
        script.process.wait(10)


def messages(address: str, topic: str, partition: int) -> list[Message]:
    """All keys and values of a partition."""
    handle = TopicPartition(topic, partition)
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    consumer.assign([handle])
    end = consumer.end_offsets([handle])[handle]
    found: list[Message] = []
    while len(found) < end:
        for record in consumer.poll(timeout_ms=1000).get(handle, []):
            found.append(Message(record.key, record.value))
    consumer.close()
    return found


def rows_of(path: Path) -> list[Message]:
    """The messages that a file should become."""
    lines = path.read_bytes().splitlines()
    return [Message(b"%d" % number, line) for number, line in enumerate(lines)]


def some_arrived(address: str, topic: str, rows: int) -> bool:
    handle = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=address)
    end = consumer.end_offsets([handle])[handle]
    consumer.close()
    return bool(end >= rows)


def test_each_file_fills_its_partition_row_by_row_with_row_numbers_as_keys(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    name, files = topic(2), sample_files(tmp_path, 6_001, 2)
    with run(tmp_path, kafka_service.bootstrap_servers, name, files) as script:
        assert_ends(script)
        last = script.log().splitlines()[-1]
        said = PRODUCED.search(last)
        assert said is not None and said.groups() == ("6001", "2")
    for partition, path in enumerate(files):
        assert messages(kafka_service.bootstrap_servers, name, partition) == rows_of(path)


def test_json_rows_carry_the_column_names_as_key(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    name = topic(1)
    row = b"1\t-3\t\t" + b"\t".join([b"5"] * 11) + b"\t68fd1e64\t" + b"\t".join([b""] * 25)
    (tmp_path / "rows.tsv").write_bytes(row + b"\r\n")
    files = [tmp_path / "rows.tsv"]
    with run(
        tmp_path, kafka_service.bootstrap_servers, name, files, "--value_format=json"
    ) as script:
        assert_ends(script)
    ((key, value),) = messages(kafka_service.bootstrap_servers, name, 0)
    assert json.loads(key or b"") == list(COLUMNS)
    fields = json.loads(value or b"")
    assert len(fields) == 40
    assert (fields[0], fields[1], fields[14]) == (1, -3, "68fd1e64")
    assert fields[2] != fields[2]  # NaN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_delivers_what_was_handed_over_and_says_how_much(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path, number: signal.Signals
) -> None:
    name, files = topic(2), sample_files(tmp_path, 20_000, 2)
    address = kafka_service.bootstrap_servers
    with run(tmp_path, address, name, files, "--rate=100") as script:
        assert wait_until(lambda: some_arrived(address, name, 50), 60)
        assert_stops(script, number, within=5)
        said = script.found(PRODUCED)
        assert f"stopped by {number.name}" in script.log()
    held = [messages(address, name, partition) for partition in (0, 1)]
    assert said is not None and int(said[1]) == sum(map(len, held))
    for path, found in zip(files, held):
        assert found == rows_of(path)[: len(found)]


def test_a_stop_signal_to_the_whole_group_is_as_clean(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    name, files = topic(1), sample_files(tmp_path, 20_000, 1)
    address = kafka_service.bootstrap_servers
    with run(tmp_path, address, name, files, "--rate=100") as script:
        assert wait_until(lambda: some_arrived(address, name, 10), 60)
        os.killpg(script.process.pid, signal.SIGTERM)
        os.killpg(script.process.pid, signal.SIGINT)
        assert_ends(script, timeout=5)
        assert "Traceback" not in script.log()


def test_killed_and_resumed_the_topic_holds_every_row_once(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    name, files = topic(2), sample_files(tmp_path, 6_000, 2)
    address = kafka_service.bootstrap_servers
    with run(tmp_path, address, name, files, "--rate=400") as script:
        assert wait_until(lambda: some_arrived(address, name, 300), 60)
        script.process.kill()
        script.wait(10)
        assert_nothing_left(script)
    begun = len(messages(address, name, 0))
    assert 300 <= begun < 3_000
    with run(tmp_path, address, name, files, "--resume") as script:
        assert_ends(script)
        assert "continuing at row" in script.log()
    for partition, path in enumerate(files):
        assert messages(address, name, partition) == rows_of(path)
    with run(tmp_path, address, name, files, "--resume") as script:
        assert_ends(script)
        said = script.found(PRODUCED)
        assert said is not None and said[1] == "0"


def test_resuming_with_another_file_is_refused_and_with_more_rows_of_the_same_it_is_not(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    name, files = topic(1), sample_files(tmp_path, 50, 1)
    address = kafka_service.bootstrap_servers
    with run(tmp_path, address, name, files) as script:
        assert_ends(script)
    rows = files[0].read_bytes().splitlines(keepends=True)
    files[0].write_bytes(b"".join(rows[:20]))
    with run(tmp_path, address, name, files, "--resume") as script:
        assert script.wait(60) == 1
        assert "only 20 rows, but 50 were sent before" in script.log()
    files[0].write_bytes(b"".join([*rows[1:], *rows[:10]]))
    with run(tmp_path, address, name, files, "--resume") as script:
        assert script.wait(60) == 1
        assert re.search(r"output1.tsv, line 50: .* is not the row sent last", script.log())
    files[0].write_bytes(gzip.compress(b"".join([*rows, *rows[:10]]), mtime=0))
    with run(tmp_path, address, name, files, "--resume") as script:
        assert_ends(script)
    assert len(messages(address, name, 0)) == 60


def test_lines_that_cannot_be_sent_are_named_and_passed_over(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    """One is too long for any topic, one for this topic, one has no end. A bad row is sent."""
    name = f"narrow_{uuid.uuid4().hex[:8]}"
    address = kafka_service.bootstrap_servers
    ensure_topic(address, name, 1, 1, configs={"max.message.bytes": "10000"})
    (file,) = sample_files(tmp_path, 2_000, 1)
    lines = file.read_bytes().splitlines()
    lines[1:1] = [b"x" * 2_000_000, b"y" * 9_995, b"z" * 9_000]
    file.write_bytes(b"\n".join(lines))
    with run(tmp_path, address, name, [file]) as script:
        assert_ends(script)
        said = script.found(PRODUCED)
        assert said is not None and said[1] == "2000"
        log = script.log()
    assert f"bad row: {file}:2, row: 2,000,000 bytes, more than 1,048,576: b'xxx" in log
    too_long = "can't be sent: 9,995 bytes, the topic takes at most 9,900"
    assert f"bad row: {file}:3, row: {too_long}" in log
    assert f"bad row: {file}:2003, row: no line end" in log
    assert f"{file}: 3 lines were not sent" in log
    wanted = [(b"%d" % number, line) for number, line in enumerate(lines)]
    assert messages(address, name, 0) == [wanted[0], *wanted[3:-1]]


def test_a_compressed_file_and_pipes_become_the_same_rows(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    name, address = topic(2), kafka_service.bootstrap_servers
    files = sample_files(tmp_path, 2_000, 2)
    (tmp_path / "rows").write_bytes(gzip.compress(files[1].read_bytes(), mtime=0))
    where = f"--bootstrap_servers={address} --topic={name}"
    sources = f"--file1=- --file2 <(cat {tmp_path / 'rows'})"
    command = f"cat {files[0]} | {sys.executable} {ROOT / 'producer.py'} {where} {sources}"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "produced 2000 rows from 2 files" in done.stderr
    for partition, path in enumerate(files):
        assert messages(address, name, partition) == rows_of(path)


def test_rows_of_a_pipe_are_sent_as_they_come_and_a_stop_does_not_wait_for_more(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    name, address = topic(1), kafka_service.bootstrap_servers
    (file,) = sample_files(tmp_path, 20, 1)
    lines = file.read_bytes().splitlines(keepends=True)
    os.mkfifo(tmp_path / "pipe")
    with run(tmp_path, address, name, [tmp_path / "pipe"]) as script:
        with open(tmp_path / "pipe", "wb", buffering=0) as writer:
            writer.write(b"".join(lines[:12]) + lines[12][:5])
            assert wait_until(lambda: some_arrived(address, name, 12), 60)
            assert_stops(script, signal.SIGTERM, within=5)
        said = script.found(PRODUCED)
        assert said is not None and said[1] == "12"
    assert messages(address, name, 0) == rows_of(file)[:12]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"clicked\t" + b"\t".join(b"f%d" % n for n in range(39)) + b"\n", "line 1: a header"),
        (b",".join([b"1"] * 40) + b"\n", "line 1: fields separated by commas"),
        (b"\t".join([b"1"] * 39) + b"\n", "line 1: 39 fields, the label is missing"),
        (b"PK\x03\x04and so on", "a zip file: unpack it"),
        (gzip.compress(b"1\t2\n", mtime=0)[:-9], "the gzip data end too early"),
    ],
    ids=["header", "commas", "no label", "zip", "gzip"],
)
def test_a_file_of_another_kind_is_named_before_anything_is_sent(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path, content: bytes, said: str
) -> None:
    name, address = topic(2), kafka_service.bootstrap_servers
    files = [*sample_files(tmp_path, 10, 1), tmp_path / "other.tsv"]
    files[1].write_bytes(content)
    with run(tmp_path, address, name, files) as script:
        assert script.wait(60) == 1
        (line,) = script.log().splitlines()
        assert f"{files[1]}" in line and said in line
    assert messages(address, name, 0) == []


def test_a_file_cut_off_within_its_compressed_data_is_sent_up_to_there(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    name, address = topic(1), kafka_service.bootstrap_servers
    (file,) = sample_files(tmp_path, 5_000, 1)
    rows = rows_of(file)
    whole = gzip.compress(file.read_bytes(), mtime=0)
    file.write_bytes(whole[:-50_000])
    with run(tmp_path, address, name, [file]) as script:
        assert script.wait(60) == 1
        assert f"{file}: the gzip data end too early: cut off" in script.log()
        said = script.found(PRODUCED)
    held = messages(address, name, 0)
    assert held == rows[: len(held)]
    assert said is not None and int(said[1]) == len(held) > 1_000
    file.write_bytes(whole)
    with run(tmp_path, address, name, [file], "--resume") as script:
        assert_ends(script)
    assert messages(address, name, 0) == rows


def test_a_topic_with_too_few_partitions_is_refused_before_anything_is_sent(
    kafka_service: KafkaService, topic: TopicFactory, tmp_path: Path
) -> None:
    name, files = topic(1), sample_files(tmp_path, 10, 2)
    with run(tmp_path, kafka_service.bootstrap_servers, name, files) as script:
        assert script.wait(60) == 1
        assert "has 1 partitions, needed: 2; kafka_client.py" in script.log()
    assert messages(kafka_service.bootstrap_servers, name, 0) == []


def test_a_broker_that_restarts_costs_no_row_and_doubles_none(tmp_path: Path) -> None:
    with KafkaService(tmp_path / "kafka", free_port()) as service:
        address = service.bootstrap_servers
        ensure_topic(address, "rows", 1, 1)
        files = sample_files(tmp_path, 6_000, 1)
        with run(tmp_path, address, "rows", files, "--rate=500") as script:
            assert wait_until(lambda: some_arrived(address, "rows", 200), 60)
            service.kill()
            time.sleep(1)
            service.start()
            assert_ends(script)
        assert messages(address, "rows", 0) == rows_of(files[0])


def test_a_stop_while_the_broker_is_away_ends_in_time_and_counts_the_rows_lost(
    tmp_path: Path,
) -> None:
    with KafkaService(tmp_path / "kafka", free_port()) as service:
        address = service.bootstrap_servers
        ensure_topic(address, "rows", 1, 1)
        files = sample_files(tmp_path, 20_000, 1)
        with run(tmp_path, address, "rows", files, "--rate=500") as script:
            assert wait_until(lambda: some_arrived(address, "rows", 200), 60)
            service.kill()
            time.sleep(1)
            asked = time.monotonic()
            assert script.stop(signal.SIGTERM) == 1
            assert time.monotonic() - asked < 6
            assert re.search(r"\d+ rows were not delivered, no answer", script.log())
            assert "Traceback" not in script.log()
            assert_nothing_left(script)


@pytest.mark.clusters
def test_a_broker_that_stays_away_ends_the_producer_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(produce, "DELIVERY_SECONDS", 11.0)  # 60 in use
    (path,) = sample_files(tmp_path, 20_000, 1)
    with KafkaService(tmp_path / "kafka", free_port()) as service:
        options = produce.ProduceOptions(service.bootstrap_servers, "rows", rate=100)
        ensure_topic(service.bootstrap_servers, "rows", 1, 1)
        threading.Timer(4.0, service.kill).start()
        began = time.monotonic()
        with pytest.raises(ProduceError, match=r"rows were not delivered, the first at line \d+"):
            produce.send_file(path, 0, options, lambda: False)
        assert time.monotonic() - began < 30
    assert "trying again: KafkaConnectionError" in caplog.text
