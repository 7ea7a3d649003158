"""Dead letters of a real topic, replayed once, and a producer that goes on afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from examples.services.kafka_service import KafkaService
from src.dead_letters import replay
from src.dead_letters.dead_letters import DeadLetter, Message, deliver, read_dead_letters
from src.dead_letters.replay import Correction
from src.stream import produce
from src.stream.produce import ProduceError, ProduceOptions, last_row, send_file
from tests.integration.conftest import TopicFactory
from tests.integration.dead_letter_topics import (
    GOOD,
    dead_letter,
    records,
    send,
    values,
    write,
)
from tests.integration.pipeline import sample_files


def test_corrected_rows_go_to_their_partition_once_however_often_they_are_replayed(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(2)
    dead_letters = [dead_letter(name, 3, b"no row"), dead_letter(name, 0, None, partition=1)]
    write(address, dead_letters)
    corrections = [Correction(each.origin, GOOD) for each in dead_letters]
    dry = replay.replay(address, name, corrections, dry_run=True)
    assert dry.replayed == [each.origin for each in dead_letters]
    assert len(records(address, f"{name}.dead")) == 2
    first = replay.replay(address, name, corrections)
    assert (first.replayed, first.replayed_before, first.refused) == (dry.replayed, [], [])
    second = replay.replay(address, name, corrections)
    assert (second.replayed, second.replayed_before, second.refused) == ([], dry.replayed, [])
    for number, each in enumerate(dead_letters):
        (row,) = records(address, name, number)
        assert (row.key, row.value) == (each.origin.encode(), GOOD)
        assert dict(row.headers) == {"replayed-from": each.origin.encode()}
    assert read_dead_letters(address, name) == []
    write(address, dead_letters)
    assert read_dead_letters(address, name) == []


def test_rows_that_are_not_to_be_replayed_are_refused_by_name_and_the_rest_goes_on(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    write(address, [dead_letter(name, offset, b"no row") for offset in range(5)])
    write(address, [dead_letter(name, 0, b"no row", partition=7)])
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
    assert "listed twice" in refused[f"{name}:0:2"]
    assert "larger than" in refused[f"{name}:0:3"]
    assert "no such dead letter" in refused[f"{name}:0:9"]
    assert "no such dead letter" in refused["nonsense"]
    assert "has no partition 7" in refused[f"{name}:7:0"]
    assert len(result.refused) == 7
    assert values(address, name) == [GOOD, GOOD.replace(b"5", b"6", 1)]
    left = [each.origin for each in read_dead_letters(address, name)]
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
    dead_letters = [dead_letter(name, offset, b"no row") for offset in range(3)]
    write(address, dead_letters)
    other = Message(name, b"0", GOOD, {}, 0)
    send(address, *[other] * 4)
    send(address, *[intent(each, 4) for each in dead_letters])
    send(address, other, row(dead_letters[1], GOOD), other)
    corrections = [Correction(each.origin, GOOD) for each in dead_letters[1:]]
    dry = replay.replay(address, name, corrections, dry_run=True)
    assert (dry.replayed, dry.replayed_before) == (
        [dead_letters[2].origin],
        [dead_letters[1].origin],
    )
    result = replay.replay(address, name, corrections)
    assert (result.replayed, result.replayed_before) == (dry.replayed, dry.replayed_before)
    keys = [record.key for record in records(address, name) if record.key != b"0"]
    assert keys == [dead_letters[1].origin.encode(), dead_letters[2].origin.encode()]
    assert read_dead_letters(address, name) == dead_letters[:1]


@pytest.mark.slow
def test_a_replay_that_dies_at_any_step_and_is_run_again_sends_every_row_once(
    kafka_service: KafkaService, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dying(after: int, acknowledge: bool) -> Callable[..., Any]:
        """A ``deliver`` that dies in call ``after``, before or after it sends the messages."""
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
        dead_letters = [dead_letter(name, offset, b"no row") for offset in range(4)]
        write(address, dead_letters)
        corrections = [Correction(each.origin, GOOD) for each in dead_letters]
        monkeypatch.setattr(replay, "CHUNK_ROWS", 2)
        monkeypatch.setattr(replay, "deliver", dying(after, acknowledge))
        with pytest.raises(Killed):
            replay.replay(address, name, corrections)
        monkeypatch.setattr(replay, "deliver", deliver)
        result = replay.replay(address, name, corrections)
        assert len(result.replayed) + len(result.replayed_before) == 4
        keys = sorted(record.key for record in records(address, name))
        assert keys == [each.origin.encode() for each in dead_letters], (after, acknowledge)
        assert read_dead_letters(address, name) == []


def test_a_replay_of_which_the_rows_are_deleted_is_refused_rather_than_sent_twice(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    dead_letters = [dead_letter(name, offset, b"no row") for offset in range(2)]
    write(address, dead_letters)
    send(address, intent(dead_letters[0], 0), row(dead_letters[0], GOOD))
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.delete_records({TopicPartition(name, 0): 1})
    admin.close()
    result = replay.replay(address, name, [Correction(each.origin, GOOD) for each in dead_letters])
    assert result.replayed == [dead_letters[1].origin]
    ((origin, reason),) = result.refused
    assert origin == dead_letters[0].origin
    assert "rows from offset 0 on are deleted" in reason


def test_json_rows_are_replayed_on_the_json_wire(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    dead_letters = [dead_letter(name, offset, b"{}") for offset in range(2)]
    write(address, dead_letters)
    good = json.dumps([1, *[5] * 13, *["68fd1e64"] * 26]).encode()
    corrections = [
        Correction(dead_letters[0].origin, GOOD),
        Correction(dead_letters[1].origin, good),
    ]
    result = replay.replay(address, name, corrections, "json")
    assert [origin for origin, _ in result.refused] == [dead_letters[0].origin]
    assert values(address, name) == [good]


@pytest.mark.parametrize("replayed", [1, 30])
def test_a_producer_resumes_after_its_last_row_though_others_were_replayed_after_it(
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
    send_file(part, 0, ProduceOptions(address, name), lambda: False)
    dead_letters = [dead_letter(name, 100 + number, b"no row") for number in range(replayed)]
    write(address, dead_letters)
    replay.replay(address, name, [Correction(each.origin, GOOD) for each in dead_letters])
    options = ProduceOptions(address, name, resume=True)
    found = last_row(options, 0)
    assert found is not None and (found.number, found.value) == (39, lines[39])
    send_file(whole, 0, options, lambda: False)
    assert values(address, name) == [*lines[:40], *[GOOD] * replayed, *lines[40:]]


def test_a_partition_without_any_row_number_cannot_be_resumed(
    kafka_service: KafkaService, topic: TopicFactory
) -> None:
    address, name = kafka_service.bootstrap_servers, topic(1)
    options = ProduceOptions(address, name)
    assert last_row(options, 0) is None
    send(address, *[Message(name, b"%d:key" % number, GOOD, {}, 0) for number in range(25)])
    with pytest.raises(ProduceError, match="no key is a row number, the last one is b'24:key'"):
        last_row(options, 0)
