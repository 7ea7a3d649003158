"""Dead letters in a real topic: written and read, by the consumer and by the command line."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import consumer
from examples.dead_letters import main
from examples.services.kafka_service import KafkaService
from src.cluster.broker import SourceError
from src.cluster.topic import ensure_topic
from src.consumer import service as consumer_service
from src.consumer.bad_row_keeper import BadRowKeeper
from src.consumer.counts import ConsumerCounts
from src.dead_letters.dead_letters import (
    DeadLetter,
    DeadLetterWriter,
    Message,
    WritingStopped,
    read_dead_letters,
)
from src.process.arrays import Array
from src.process.ports import free_port
from src.process.stop import StopFlag
from src.rows.bad_rows import BadRowGuard
from src.stream import partition_reader
from src.stream.position import Position
from tests.integration.conftest import TopicFactory
from tests.integration.dead_letter_topics import (
    GOOD,
    dead_letter,
    records,
    send,
    values,
    write,
)
from tests.integration.pipeline import DictionaryFiles


def test_dead_letters_are_read_back_as_they_were_written_byte_for_byte(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(2)
    assert read_dead_letters(address, name) == []
    huge = b"x" * 12_000_000
    dead_letters = [
        dead_letter(name, 3, bytes(range(256))),
        dead_letter(name, 4, None),
        dead_letter(name, 5, b""),
        dead_letter(name, 6, huge),
        dead_letter(name, 0, "é\n".encode(), partition=1),
    ]
    write(address, dead_letters[::-1])
    assert read_dead_letters(address, name) == dead_letters
    first = records(address, f"{name}.dead")[0]
    assert first.key == f"{name}:1:0".encode()
    assert dict(first.headers) == {
        "column": b"row",
        "reason": b"1 fields, expected 40: b'no row'",
        "time": b"2026-11-24T10:00:00.250+00:00",
    }


def test_a_dead_letter_larger_than_its_topic_takes_is_refused_by_name_at_once(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    ensure_topic(address, f"{name}.dead", 1, 1, configs={"max.message.bytes": "1000"})
    writer, began = DeadLetterWriter(address, name, 60), time.monotonic()
    with pytest.raises(SourceError, match=f"can't be written to {name}.dead"):
        writer.write([dead_letter(name, 1, b"x" * 5_000)])
    assert time.monotonic() - began < 30
    writer.close()


def test_dead_letters_of_two_processes_that_met_the_same_rows_are_read_once(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    dead_letters = [dead_letter(name, offset, b"%d" % offset) for offset in range(10)]
    write(address, dead_letters[:7])
    write(address, dead_letters[3:])
    assert len(records(address, f"{name}.dead")) == 14
    assert read_dead_letters(address, name) == dead_letters


def test_rows_met_again_after_a_rewind_are_written_once(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name, counts = kafka_service.bootstrap_servers, topic(1), ConsumerCounts()
    writer = DeadLetterWriter(address, name)
    keeper = BadRowKeeper(writer.write, BadRowGuard(1.0), counts)
    dead_letters = [dead_letter(name, offset, b"no row") for offset in range(10)]
    for first, end in ((0, 5), (2, 8), (0, 10)):
        keeper.begin(Position({0: first}))
        keeper.keep(dead_letters[first:end], np.zeros(end - first, dtype=bool), {0: end})
    writer.close()
    assert [record.key for record in records(address, f"{name}.dead")] == [
        f"{name}:0:{offset}".encode() for offset in range(10)
    ]
    assert counts.bad_rows == 10


@pytest.mark.slow
def test_a_broker_that_comes_back_gets_the_dead_letters_and_one_that_does_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_reader, "ANSWER_SECONDS", 2.0)
    with KafkaService(tmp_path, free_port()) as service:
        address = service.bootstrap_servers
        ensure_topic(address, "rows", 1, 1)
        writer = DeadLetterWriter(address, "rows", 60)
        writer.write([dead_letter("rows", 0, b"no row")])
        service.kill()
        asked: list[float] = []

        def start_after_a_while() -> bool:
            asked.append(time.monotonic())
            if asked[-1] - asked[0] > 1 and len(asked) > 1 and not service.started_here:
                service.start()
            return False

        patient = DeadLetterWriter(address, "rows", 60, start_after_a_while)
        patient.write([dead_letter("rows", 1, b"no row")])
        patient.close()
        writer.write([dead_letter("rows", 2, b"no row")])
        assert [found.offset for found in read_dead_letters(address, "rows")] == [0, 1, 2]
        service.kill()
        writer.close()
        impatient, began = DeadLetterWriter(address, "rows", 3), time.monotonic()
        with pytest.raises(SourceError, match="1 bad rows can't be written to rows.dead"):
            impatient.write([dead_letter("rows", 3, b"no row")])
        assert 3 <= time.monotonic() - began < 30
        with pytest.raises(SourceError, match="no broker answers"):
            read_dead_letters(address, "rows")


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
            return consumer_service.exit_code_of(
                lambda counts: consumer.consume_topic(arguments, flag, counts)
            )
        finally:
            flag.set("over")
            stopper.join()

    return run


def rows_of(topic: str, *lines: bytes | None) -> list[Message]:
    return [Message(topic, b"%d" % number, line, {}, 0) for number, line in enumerate(lines)]


def test_consumer_keeps_its_bad_rows_before_it_hands_on_the_rows_after_them(
    kafka_service: KafkaService, topic: TopicFactory, consume: Callable[..., int]
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    lines = [GOOD, b"no row", None, b"\xff" * 40, GOOD, GOOD]
    send(address, *rows_of(name, *lines))
    assert consume(name, 3) == 0
    dead_letters = read_dead_letters(address, name)
    assert [(each.offset, each.value) for each in dead_letters] == [
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
    assert len(read_dead_letters(address, name)) == 30
    assert consume(name, 20, "--max_bad_fraction=0.003") == 0
    assert sum(map(len, SenderInMemory.windows)) == 20


def test_a_stop_while_bad_rows_cannot_be_written_is_a_clean_end_and_hands_nothing_on(
    kafka_service: KafkaService,
    topic: TopicFactory,
    consume: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: DeadLetterWriter, dead_letters: Sequence[DeadLetter]) -> None:
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
    write(
        address,
        [
            dead_letter(name, 2, b"no row"),
            dead_letter(name, 1, b"\xff"),
            dead_letter(name, 3, None),
        ],
    )

    assert main(["list", *flags]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["origin"] for entry in listed] == [f"{name}:0:{offset}" for offset in (1, 2, 3)]
    assert (listed[0]["value_base64"], listed[1]["value"], listed[2]["value"]) == (
        "/w==",
        "no row",
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
