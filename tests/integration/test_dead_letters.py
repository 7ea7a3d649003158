"""Dead letters in a real topic: written, read, replayed once, and a producer that goes on after."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

import consumer
from examples.dead_letters import main
from examples.services.kafka_service import KafkaService
from src.consumer import service as consumer_service
from src.consumer.consume import BadRowKeeper, ConsumerCounts
from src.process.arrays import Array
from src.process.ports import free_port
from src.process.stop import StopFlag
from src.stream import partition_reader, produce, replay
from src.stream.bad_rows import BadRowGuard
from src.stream.broker import SourceError
from src.stream.dead_letters import (
    DeadLetter,
    DeadLetterWriter,
    Message,
    WritingStopped,
    deliver,
    read_letters,
)
from src.stream.position import Position
from src.stream.produce import ProduceError, ProduceOptions, next_row, produce_file
from src.stream.replay import Correction
from src.stream.topic import ensure_topic
from tests.integration.conftest import TopicFactory
from tests.integration.pipeline import DictionaryFiles, sample_files

MOMENT = datetime(2026, 11, 24, 10, 0, 0, 250_000, timezone.utc)
GOOD = b"1" + b"\t5" * 13 + b"\t68fd1e64" * 26


def letter(topic: str, offset: int, value: Optional[bytes], partition: int = 0) -> DeadLetter:
    reason = "1 fields, expected 40: b'no row'"
    return DeadLetter(topic, partition, offset, value, "row", reason, MOMENT)


def write(address: str, letters: Sequence[DeadLetter]) -> None:
    writer = DeadLetterWriter(address, letters[0].topic)
    try:
        writer.write(letters)
    finally:
        writer.close()


def records(address: str, topic: str, partition: int = 0) -> list[Any]:
    """All messages of a partition."""
    handle = TopicPartition(topic, partition)
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    consumer.assign([handle])
    end, found = consumer.end_offsets([handle])[handle], list[Any]()
    while len(found) < end:
        found += consumer.poll(timeout_ms=1000).get(handle, [])
    consumer.close()
    return found


def values(address: str, topic: str, partition: int = 0) -> list[Optional[bytes]]:
    return [record.value for record in records(address, topic, partition)]


def send(address: str, *messages: Message) -> None:
    """Sends messages as a process would that is killed right after."""
    producer = KafkaProducer(bootstrap_servers=address, acks="all")
    assert deliver(producer, messages, lambda: time.sleep(0.01)) == [None] * len(messages)
    producer.close()


def test_letters_are_read_back_as_they_were_written_byte_for_byte(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(2)
    assert read_letters(address, name) == []
    huge = b"x" * 12_000_000
    letters = [
        letter(name, 3, bytes(range(256))),
        letter(name, 4, None),
        letter(name, 5, b""),
        letter(name, 6, huge),
        letter(name, 0, "é\n".encode(), partition=1),
    ]
    write(address, letters[::-1])
    assert read_letters(address, name) == letters
    first = records(address, f"{name}.dead")[0]
    assert first.key == f"{name}:1:0".encode()
    assert dict(first.headers) == {
        "column": b"row",
        "reason": b"1 fields, expected 40: b'no row'",
        "time": b"2026-11-24T10:00:00.250+00:00",
    }


def test_a_letter_larger_than_its_topic_takes_is_refused_by_name_at_once(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    ensure_topic(address, f"{name}.dead", 1, 1, configs={"max.message.bytes": "1000"})
    writer, began = DeadLetterWriter(address, name, 60), time.monotonic()
    with pytest.raises(SourceError, match=f"can't be written to {name}.dead"):
        writer.write([letter(name, 1, b"x" * 5_000)])
    assert time.monotonic() - began < 30
    writer.close()


def test_letters_of_two_processes_that_met_the_same_rows_are_read_once(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    letters = [letter(name, offset, b"%d" % offset) for offset in range(10)]
    write(address, letters[:7])
    write(address, letters[3:])
    assert len(records(address, f"{name}.dead")) == 14
    assert read_letters(address, name) == letters


def test_rows_met_again_after_a_rewind_are_written_once(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name, counts = kafka_service.bootstrap_servers, topic(1), ConsumerCounts()
    writer = DeadLetterWriter(address, name)
    keeper = BadRowKeeper(writer.write, BadRowGuard(1.0), counts)
    letters = [letter(name, offset, b"no row") for offset in range(10)]
    for first, end in ((0, 5), (2, 8), (0, 10)):
        keeper.begin(Position({0: first}))
        keeper.keep(letters[first:end], np.zeros(end - first, dtype=bool), {0: end})
    writer.close()
    assert [record.key for record in records(address, f"{name}.dead")] == [
        f"{name}:0:{offset}".encode() for offset in range(10)
    ]
    assert counts.bad_rows == 10


@pytest.mark.slow
def test_a_broker_that_comes_back_gets_the_letters_and_one_that_does_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_reader, "ANSWER_SECONDS", 2.0)
    with KafkaService(tmp_path, free_port()) as service:
        address = service.bootstrap_servers
        ensure_topic(address, "rows", 1, 1)
        writer = DeadLetterWriter(address, "rows", 60)
        writer.write([letter("rows", 0, b"no row")])
        service.kill()
        asked: list[float] = []

        def start_after_a_while() -> bool:
            asked.append(time.monotonic())
            if asked[-1] - asked[0] > 1 and len(asked) > 1 and not service.started_here:
                service.start()
            return False

        patient = DeadLetterWriter(address, "rows", 60, start_after_a_while)
        patient.write([letter("rows", 1, b"no row")])
        patient.close()
        writer.write([letter("rows", 2, b"no row")])
        assert [found.offset for found in read_letters(address, "rows")] == [0, 1, 2]
        service.kill()
        writer.close()
        impatient, began = DeadLetterWriter(address, "rows", 3), time.monotonic()
        with pytest.raises(SourceError, match="1 bad rows can't be written to rows.dead"):
            impatient.write([letter("rows", 3, b"no row")])
        assert 3 <= time.monotonic() - began < 30
        with pytest.raises(SourceError, match="no broker answers"):
            read_letters(address, "rows")


def test_corrected_rows_go_to_their_partition_once_however_often_they_are_replayed(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(2)
    letters = [letter(name, 3, b"no row"), letter(name, 0, None, partition=1)]
    write(address, letters)
    corrections = [Correction(each.origin, GOOD) for each in letters]
    dry = replay.replay(address, name, corrections, dry_run=True)
    assert dry.replayed == [each.origin for each in letters]
    assert len(records(address, f"{name}.dead")) == 2
    first = replay.replay(address, name, corrections)
    assert (first.replayed, first.before, first.refused) == (dry.replayed, [], [])
    second = replay.replay(address, name, corrections)
    assert (second.replayed, second.before, second.refused) == ([], dry.replayed, [])
    for number, each in enumerate(letters):
        (row,) = records(address, name, number)
        assert (row.key, row.value) == (each.origin.encode(), GOOD)
        assert dict(row.headers) == {"replayed-from": each.origin.encode()}
    assert read_letters(address, name) == []
    write(address, letters)
    assert read_letters(address, name) == []


def test_rows_that_are_not_to_be_replayed_are_refused_by_name_and_the_rest_goes_on(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    write(address, [letter(name, offset, b"no row") for offset in range(5)])
    write(address, [letter(name, 0, b"no row", partition=7)])
    large = GOOD + b"x" * 1_100_000
    corrections = [
        Correction(f"{name}:0:0", b"still no row"),
        Correction(f"{name}:0:1", None),
        Correction(f"{name}:0:2", GOOD),
        Correction(f"{name}:0:2", GOOD),
        Correction(f"{name}:0:3", large),
        Correction(f"{name}:0:9", GOOD),
        Correction("nonsense", GOOD),
        Correction(f"{name}:7:0", GOOD),
        Correction(f"{name}:0:4", GOOD.replace(b"5", b"6", 1)),
    ]
    result = replay.replay(address, name, corrections)
    refused = dict(result.refused)
    assert refused[f"{name}:0:0"].startswith("row: 1 fields, expected 40")
    assert "tombstone" in refused[f"{name}:0:1"]
    assert "comes twice" in refused[f"{name}:0:2"]
    assert "larger than" in refused[f"{name}:0:3"]
    assert "no such dead letter" in refused[f"{name}:0:9"]
    assert "no such dead letter" in refused["nonsense"]
    assert "has no partition 7" in refused[f"{name}:7:0"]
    assert len(result.refused) == 7
    assert values(address, name) == [GOOD, GOOD.replace(b"5", b"6", 1)]
    left = [each.origin for each in read_letters(address, name)]
    assert left == [f"{name}:0:0", f"{name}:0:1", f"{name}:0:3", f"{name}:7:0"]


def intent(each: DeadLetter, end: int) -> Message:
    return Message(f"{each.topic}.dead", each.origin.encode(), None, {"replaying": str(end)})


def row(each: DeadLetter, value: bytes) -> Message:
    headers = {"replayed-from": each.origin}
    return Message(each.topic, each.origin.encode(), value, headers, each.partition)


def test_a_replay_killed_before_its_marks_sends_only_the_rows_that_are_not_there(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    letters = [letter(name, offset, b"no row") for offset in range(3)]
    write(address, letters)
    other = Message(name, b"0", GOOD, {}, 0)
    send(address, *[other] * 4)
    send(address, *[intent(each, 4) for each in letters])
    send(address, other, row(letters[1], GOOD), other)
    corrections = [Correction(each.origin, GOOD) for each in letters[1:]]
    dry = replay.replay(address, name, corrections, dry_run=True)
    assert (dry.replayed, dry.before) == ([letters[2].origin], [letters[1].origin])
    result = replay.replay(address, name, corrections)
    assert (result.replayed, result.before) == (dry.replayed, dry.before)
    keys = [record.key for record in records(address, name) if record.key != b"0"]
    assert keys == [letters[1].origin.encode(), letters[2].origin.encode()]
    assert read_letters(address, name) == letters[:1]


@pytest.mark.slow
def test_a_replay_that_dies_at_any_step_and_is_run_again_sends_every_row_once(
    kafka_service: KafkaService, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dying(after: int, acknowledge: bool) -> Callable[..., Any]:
        """A ``deliver`` that dies at its so-manieth call, before or after the messages are out."""
        calls = iter(range(100))

        def call(*arguments: Any) -> Any:
            if next(calls) < after:
                return deliver(*arguments)
            if acknowledge:
                deliver(*arguments)
            raise Killed

        return call

    address = kafka_service.bootstrap_servers
    for after, acknowledge in [(call, late) for call in range(1, 7) for late in (False, True)]:
        name = topic(1)
        letters = [letter(name, offset, b"no row") for offset in range(4)]
        write(address, letters)
        corrections = [Correction(each.origin, GOOD) for each in letters]
        monkeypatch.setattr(replay, "CHUNK_ROWS", 2)
        monkeypatch.setattr(replay, "deliver", dying(after, acknowledge))
        with pytest.raises(Killed):
            replay.replay(address, name, corrections)
        monkeypatch.setattr(replay, "deliver", deliver)
        result = replay.replay(address, name, corrections)
        assert len(result.replayed) + len(result.before) == 4
        keys = sorted(record.key for record in records(address, name))
        assert keys == [each.origin.encode() for each in letters], (after, acknowledge)
        assert read_letters(address, name) == []


def test_a_replay_of_which_the_rows_are_deleted_is_refused_rather_than_sent_twice(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    letters = [letter(name, offset, b"no row") for offset in range(2)]
    write(address, letters)
    send(address, intent(letters[0], 0), row(letters[0], GOOD))
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.delete_records({TopicPartition(name, 0): 1})
    admin.close()
    result = replay.replay(address, name, [Correction(each.origin, GOOD) for each in letters])
    assert result.replayed == [letters[1].origin]
    ((origin, reason),) = result.refused
    assert origin == letters[0].origin
    assert "rows from offset 0 on are deleted" in reason


def test_json_rows_are_replayed_on_the_json_wire(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    letters = [letter(name, offset, b"{}") for offset in range(2)]
    write(address, letters)
    good = json.dumps([1, *[5] * 13, *["68fd1e64"] * 26]).encode()
    corrections = [Correction(letters[0].origin, GOOD), Correction(letters[1].origin, good)]
    result = replay.replay(address, name, corrections, "json")
    assert [origin for origin, _ in result.refused] == [letters[0].origin]
    assert values(address, name) == [good]


@pytest.mark.parametrize("replayed", [1, 30])
def test_a_producer_resumes_behind_its_last_row_though_others_were_replayed_after_it(
    kafka_service: KafkaService,
    topic: TopicFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replayed: int,
) -> None:
    monkeypatch.setattr(produce, "MAX_STEP_BACK", 7)
    address, name = kafka_service.bootstrap_servers, topic(1)
    (whole,) = sample_files(tmp_path, 60, 1)
    lines = whole.read_bytes().splitlines()
    part = tmp_path / "part.tsv"
    part.write_bytes(b"\n".join(lines[:40]) + b"\n")
    produce_file(part, 0, ProduceOptions(address, name), lambda: False)
    letters = [letter(name, 100 + number, b"no row") for number in range(replayed)]
    write(address, letters)
    replay.replay(address, name, [Correction(each.origin, GOOD) for each in letters])
    options = ProduceOptions(address, name, resume=True)
    assert next_row(options, 0) == 40
    produce_file(whole, 0, options, lambda: False)
    assert values(address, name) == [*lines[:40], *[GOOD] * replayed, *lines[40:]]


def test_a_partition_without_any_row_number_cannot_be_resumed(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    options = ProduceOptions(address, name)
    assert next_row(options, 0) == 0
    send(address, *[Message(name, b"%d:key" % number, GOOD, {}, 0) for number in range(25)])
    with pytest.raises(ProduceError, match="no key is a row number, the last one is b'24:key'"):
        next_row(options, 0)


class SenderInMemory:
    """Takes the place of the channel, which needs the engine."""

    windows: list[Array] = []

    def __init__(self, *arguments: object) -> None:
        pass

    def send_window(self, window: Array, give_up: Callable[[], bool]) -> bool:
        self.windows.append(window)
        return True

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def consume(
    tmp_path: Path, kafka_service: KafkaService, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Runs the consumer, all but its channel, until it has taken so many rows."""
    monkeypatch.setattr(consumer_service, "open_channel", SenderInMemory)
    monkeypatch.setattr(consumer_service, "finalize", lambda: None)
    made = DictionaryFiles.make(tmp_path, 300)
    files = [f"--{name}={getattr(made, name)}" for name in ("max_dict", "min_dict", "map_dict")]

    def run(name: str, rows: int, *flags: str) -> int:
        flag = StopFlag()
        SenderInMemory.windows = []

        def stop() -> None:
            give_up_at = time.monotonic() + 60
            while time.monotonic() < give_up_at and not flag.wait(0.05):
                if sum(map(len, SenderInMemory.windows)) >= rows:
                    break
            flag.set("enough rows")

        where = (f"--bootstrap_servers={kafka_service.bootstrap_servers}", f"--topic={name}")
        arguments = consumer.parse_args([*files, *where, f"--group_id={name}", *flags])
        stopper = threading.Thread(target=stop)
        stopper.start()
        try:
            return consumer_service.run_consumer(arguments, flag)
        finally:
            flag.set("over")
            stopper.join()

    return run


def rows_of(topic: str, *lines: Optional[bytes]) -> list[Message]:
    return [Message(topic, b"%d" % number, line, {}, 0) for number, line in enumerate(lines)]


def test_consumer_keeps_its_bad_rows_before_it_hands_on_the_rows_behind_them(
    kafka_service: KafkaService, topic: TopicFactory, consume: Callable[..., int]
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    lines = [GOOD, b"no row", None, b"\xff" * 40, GOOD, GOOD]
    send(address, *rows_of(name, *lines))
    assert consume(name, 3) == 0
    letters = read_letters(address, name)
    assert [(each.offset, each.value) for each in letters] == [
        (offset, lines[offset]) for offset in (1, 2, 3)
    ]
    offsets = [int(offset) for window in SenderInMemory.windows for offset in window["offset"]]
    assert offsets == [0, 4, 5]


def test_a_broken_feed_ends_the_consumer_with_one_line_when_its_rows_are_kept(
    kafka_service: KafkaService,
    topic: TopicFactory,
    consume: Callable[..., int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    send(address, *rows_of(name, *[GOOD] * 10, *[b"no row"] * 30, *[GOOD] * 10))
    caplog.set_level(logging.INFO)
    assert consume(name, 50, "--max_bad_fraction=0.002") == 1
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.getMessage().startswith("a broken feed: 21 of the last 31 rows are bad")
    assert "consumed 0 windows, 0 rows, 30 bad rows" in caplog.text
    assert SenderInMemory.windows == []
    assert len(read_letters(address, name)) == 30
    assert consume(name, 20, "--max_bad_fraction=0.003") == 0
    assert sum(map(len, SenderInMemory.windows)) == 20


def test_a_stop_while_bad_rows_cannot_be_written_is_a_clean_end_and_hands_nothing_on(
    kafka_service: KafkaService,
    topic: TopicFactory,
    consume: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: DeadLetterWriter, letters: Sequence[DeadLetter]) -> None:
        raise WritingStopped("stopped")

    address, name = kafka_service.bootstrap_servers, topic(1)
    send(address, *rows_of(name, GOOD, b"no row", GOOD))
    monkeypatch.setattr(DeadLetterWriter, "write", refuse)
    assert consume(name, 2) == 0
    assert SenderInMemory.windows == []


@pytest.mark.usefixtures("own_logging")
def test_commands_list_count_and_replay(
    kafka_service: KafkaService,
    topic: TopicFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    flags = [f"--bootstrap_servers={address}", f"--topic={name}"]
    write(address, [letter(name, 2, b"no row"), letter(name, 1, b"\xff"), letter(name, 3, None)])

    assert main(["list", *flags]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["origin"] for entry in listed] == [f"{name}:0:{offset}" for offset in (1, 2, 3)]
    assert (listed[0]["value_base64"], listed[1]["value"], listed[2]["value"]) == (
        *("/w==", "no row"),
        None,
    )
    assert main(["count", *flags]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "   3  row     1 fields, expected 40",
        "   3  all",
    ]

    listed[1]["value"] = GOOD.decode()
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, listed)) + "\n")
    assert main(["replay", str(path), "--dry_run", *flags]) == 1
    assert "would replay 1 rows, 0 were replayed before, 2 refused" in capsys.readouterr().err
    assert values(address, name) == []
    assert main(["replay", str(path), *flags]) == 1
    said = capsys.readouterr().err
    assert f"refused: {name}:0:1: row: 1 fields, expected 40" in said
    assert "replayed 1 rows, 0 were replayed before, 2 refused" in said
    path.write_text(json.dumps(listed[1]))
    assert main(["replay", str(path), *flags]) == 0
    assert "replayed 0 rows, 1 were replayed before, 0 refused" in capsys.readouterr().err
    assert values(address, name) == [GOOD]
    assert main(["list", *flags]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.usefixtures("own_logging")
def test_a_missing_topic_is_an_error_of_one_line(
    kafka_service: KafkaService, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--bootstrap_servers={kafka_service.bootstrap_servers}", "--topic=absent"]
    for command in ("list", "count"):
        assert main([command, *flags]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == 1
        assert "there is no topic absent" in said.err
