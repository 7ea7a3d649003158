"""Dead letters and markers as messages, and the writer's patience with a broker in memory."""

from __future__ import annotations

import time
from collections import namedtuple
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from src.cluster.broker import SourceError
from src.cluster.topic import TopicError
from src.dead_letters import dead_letters
from src.dead_letters.dead_letters import (
    DeadLetter,
    DeadLetters,
    DeadLetterWriter,
    Message,
    WritingStopped,
)

Record = namedtuple("Record", "key value headers")
MOMENT = datetime(2026, 11, 24, 10, 0, 0, 250_000, timezone.utc)


def dead_letter(offset: int, value: bytes | None = b"no row", partition: int = 0) -> DeadLetter:
    return DeadLetter("clicks", partition, offset, value, "row", "1 fields, expected 40", MOMENT)


def record_of(message: Message) -> Record:
    headers = [(name, text.encode()) for name, text in message.headers.items()]
    return Record(message.key, message.value, headers)


def marker(offset: int, name: str, text: str) -> Record:
    return Record(b"clicks:0:%d" % offset, None, [(name, text.encode())])


def topic_of(*records: Record) -> DeadLetters:
    topic = DeadLetters("clicks")
    for record in records:
        assert topic.add(record)
    return topic


@given(
    st.one_of(st.none(), st.binary(max_size=50)),
    st.text(st.characters(blacklist_categories=["Cs"])),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
)
def test_a_dead_letter_comes_back_from_its_message_as_it_was(
    value: bytes | None, reason: str, moment: datetime
) -> None:
    moment = moment.replace(
        microsecond=moment.microsecond // 1000 * 1000, tzinfo=timezone(timedelta(hours=3))
    )
    sent = DeadLetter("a.b-c_1", 3, 12345678901, value, "C7", reason, moment)
    message = sent.to_message()
    assert (message.topic, message.key) == ("a.b-c_1.dead", b"a.b-c_1:3:12345678901")
    topic = DeadLetters("a.b-c_1")
    assert topic.add(record_of(message))
    assert topic.in_order() == [sent]


def test_dead_letters_come_once_each_by_partition_and_offset() -> None:
    written = [
        dead_letter(7),
        dead_letter(10),
        dead_letter(9),
        dead_letter(7),
        dead_letter(3, partition=1),
        dead_letter(10),
    ]
    topic = topic_of(*[record_of(each.to_message()) for each in written])
    assert [each.origin for each in topic.in_order()] == [
        "clicks:0:7",
        "clicks:0:9",
        "clicks:0:10",
        "clicks:1:3",
    ]


def test_a_tombstone_is_a_dead_letter_and_a_marker_is_none() -> None:
    topic = topic_of(record_of(dead_letter(4, None).to_message()), marker(5, "replaying", "8"))
    assert topic.in_order() == [dead_letter(4, None)]
    assert topic.replaying == {"clicks:0:5": 8}


def test_a_replayed_dead_letter_is_outstanding_no_more_even_when_it_comes_again() -> None:
    again = record_of(dead_letter(4).to_message())
    topic = topic_of(again, marker(4, "replaying", "9"), marker(4, "replayed", "now"), again)
    assert topic.in_order() == []
    assert topic.replayed == {"clicks:0:4"}
    assert topic.replaying == {}


def test_the_last_of_several_attempts_counts_and_its_dead_letter_stays_outstanding() -> None:
    attempts = [marker(4, "replaying", end) for end in ("9", "12")]
    topic = topic_of(record_of(dead_letter(4).to_message()), *attempts)
    assert topic.replaying == {"clicks:0:4": 12}
    assert topic.in_order() == [dead_letter(4)]


@pytest.mark.parametrize(
    "record",
    [
        Record(None, b"x", [("column", b"row")]),
        Record(b"clicks:0:1", b"x", []),
        Record(b"clicks:0:1", b"x", [("column", b"row"), ("reason", b"r"), ("time", b"noon")]),
        Record(b"clicks:0", None, [("replayed", b"now")]),
        Record(b"clicks:0:one", None, [("replayed", b"now")]),
        Record(b"other:0:1", None, [("replayed", b"now")]),
        Record(b"clicks:0:1", None, [("replaying", b"soon")]),
    ],
)
def test_what_is_neither_dead_letter_nor_marker_of_the_topic_is_passed_over(record: Record) -> None:
    topic = DeadLetters("clicks")
    assert not topic.add(record)
    assert topic == DeadLetters("clicks")


class Answer:
    """The future of one message: never done, failed or acknowledged."""

    def __init__(self, error: KafkaError | None, is_done: bool) -> None:
        self.exception = error
        self.is_done = is_done

    def failed(self) -> bool:
        return self.exception is not None


class MemoryProducer:
    """Acknowledges messages, fails or stays silent, as ``moods`` lists them one after another."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.is_closed = False

    def send(
        self, topic: str, value: Any, key: bytes, headers: list[Any], partition: Any
    ) -> Answer:
        mood = self._broker.moods.pop(0) if self._broker.moods else "well"
        if isinstance(mood, KafkaError):
            return Answer(mood, True)
        if mood == "well":
            self._broker.keys.append(key)
        return Answer(None, mood == "well")

    def close(self, timeout: float) -> None:
        self.is_closed = True


class Broker:
    """The writer's broker; ``absences`` are raised one after another instead of connecting."""

    def __init__(self) -> None:
        self.moods: list[Any] = []
        self.absences: list[Exception] = []
        self.keys: list[bytes] = []
        self.producers: list[MemoryProducer] = []
        self.topics: list[tuple[Any, ...]] = []

    def ensure_topic(self, *arguments: Any) -> int:
        if self.absences:
            raise self.absences.pop(0)
        self.topics.append(arguments)
        return 1

    def open_producer(self, *arguments: Any) -> MemoryProducer:
        self.producers.append(MemoryProducer(self))
        return self.producers[-1]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    broker = Broker()
    monkeypatch.setattr(dead_letters, "ensure_topic", broker.ensure_topic)
    monkeypatch.setattr(dead_letters, "open_producer", broker.open_producer)
    monkeypatch.setattr(dead_letters, "RETRY_SECONDS", 0.01)
    yield broker


def test_topic_and_producer_are_made_with_the_first_dead_letter_and_serve_the_others(
    broker: Broker,
) -> None:
    writer = DeadLetterWriter("host:1", "clicks")
    writer.write([])
    assert broker.producers == []
    writer.write([dead_letter(1), dead_letter(2)])
    writer.write([dead_letter(3)])
    assert broker.keys == [b"clicks:0:1", b"clicks:0:2", b"clicks:0:3"]
    assert len(broker.producers) == len(broker.topics) == 1
    assert broker.topics[0][:4] == ("host:1", "clicks.dead", 1, -1)
    assert int(broker.topics[0][5]["max.message.bytes"]) >= 16 << 20
    writer.close()
    assert broker.producers[0].is_closed


def test_what_fails_is_sent_again_by_a_new_producer(broker: Broker) -> None:
    broker.absences = [TopicError("away", retriable=True), KafkaTimeoutError("away")]
    broker.moods = ["well", KafkaTimeoutError("lost")]
    DeadLetterWriter("host:1", "clicks", 30).write([dead_letter(1), dead_letter(2)])
    assert set(broker.keys) == {b"clicks:0:1", b"clicks:0:2"}
    assert [producer.is_closed for producer in broker.producers] == [True, False]


@pytest.mark.parametrize(
    ("absence", "mood"),
    [(TopicError("refused"), "well"), (None, MessageSizeTooLargeError("too large"))],
)
def test_a_refusal_is_final_at_once(broker: Broker, absence: Any, mood: Any) -> None:
    broker.absences, broker.moods = [absence] if absence else [], [mood]
    began = time.monotonic()
    with pytest.raises(SourceError, match="1 bad rows can't be written to clicks.dead at host:1"):
        DeadLetterWriter("host:1", "clicks", 30).write([dead_letter(1)])
    assert time.monotonic() - began < 5
    assert broker.keys == []


def test_a_silent_broker_is_waited_for_reconnect_seconds(broker: Broker) -> None:
    broker.moods = ["silent"] * 100
    began = time.monotonic()
    with pytest.raises(SourceError, match="no acknowledgement"):
        DeadLetterWriter("host:1", "clicks", 0.3).write([dead_letter(1)])
    assert 0.3 <= time.monotonic() - began < 5


def test_a_stop_ends_the_wait_for_a_silent_broker(broker: Broker) -> None:
    broker.moods = ["silent"]
    began = time.monotonic()
    writer = DeadLetterWriter("host:1", "clicks", 60, lambda: time.monotonic() > began + 0.1)
    with pytest.raises(WritingStopped):
        writer.write([dead_letter(1)])
    assert time.monotonic() - began < 5


def test_many_bytes_are_sent_in_pieces_each_acknowledged_before_the_next(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_UNACKNOWLEDGED_BYTES", 100)
    broker.moods = ["well"] * 2 + ["silent"] + ["well"] * 50
    writer = DeadLetterWriter("host:1", "clicks", 0.1)
    with pytest.raises(SourceError):
        writer.write([dead_letter(number, b"x" * 40) for number in range(50)])
    assert broker.keys == [b"clicks:0:0", b"clicks:0:1"]
