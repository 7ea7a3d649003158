"""The broker edge against a topic held in memory: where to start, what is held, when to give up."""

from __future__ import annotations

import time
from collections import namedtuple
from collections.abc import Iterator
from typing import Any, Optional

import pytest
from kafka import TopicPartition
from kafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)

from src.stream import kafka_source
from src.stream.kafka_source import RowSource, SourceError
from src.stream.position import Position

Record = namedtuple("Record", "value offset timestamp")


class Broker:
    """Two partitions in memory; rows below ``first`` are deleted, ``away`` fails every request."""

    def __init__(self) -> None:
        self.first = {0: 0, 1: 0}
        self.rows = {0: 6, 1: 3}
        self.away = False
        self.poll_error: Optional[KafkaError] = None

    def check(self) -> None:
        if self.away:
            raise KafkaTimeoutError("no answer")


class MemoryConsumer:
    """What RowSource uses of a KafkaConsumer; a poll takes at most two rows of a partition."""

    broker: Broker

    def __init__(self, **options: Any) -> None:
        self.places: dict[int, int] = {}
        self.ends_seen: dict[int, int] = {}
        self.paused: set[int] = set()

    def partitions_for_topic(self, topic: str) -> set[int]:
        self.broker.check()
        return set(self.broker.rows)

    def assign(self, handles: list[TopicPartition]) -> None:
        self.places = {handle.partition: 0 for handle in handles}

    def beginning_offsets(self, handles: list[TopicPartition], **options: Any) -> dict[Any, int]:
        self.broker.check()
        return {handle: self.broker.first[handle.partition] for handle in handles}

    def end_offsets(self, handles: list[TopicPartition], **options: Any) -> dict[Any, int]:
        self.broker.check()
        return {handle: self.broker.rows[handle.partition] for handle in handles}

    def committed(self, handle: TopicPartition, **options: Any) -> None:
        self.broker.check()

    def seek(self, handle: TopicPartition, offset: int) -> None:
        self.places[handle.partition] = offset

    def position(self, handle: TopicPartition, **options: Any) -> int:
        return self.places[handle.partition]

    def highwater(self, handle: TopicPartition) -> Optional[int]:
        return self.ends_seen.get(handle.partition)

    def pause(self, handle: TopicPartition) -> None:
        self.paused.add(handle.partition)

    def resume(self, *handles: TopicPartition) -> None:
        self.paused.difference_update(handle.partition for handle in handles)

    def poll(self, **options: Any) -> dict[TopicPartition, list[Record]]:
        if self.broker.poll_error is not None:
            raise self.broker.poll_error
        found = {}
        for number in self.places.keys() - self.paused:
            self.ends_seen[number] = end = self.broker.rows[number]
            place = self.places[number]
            if place < self.broker.first[number]:
                raise OffsetOutOfRangeError({TopicPartition("rows", number): place})
            if place < end and not self.broker.away:
                taken = range(place, min(place + 2, end))
                found[TopicPartition("rows", number)] = [
                    Record(b"%d" % offset, offset, 100 + offset) for offset in taken
                ]
                self.places[number] = taken[-1] + 1
        return found

    def close(self, **options: Any) -> None:
        pass


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    made = Broker()
    monkeypatch.setattr(MemoryConsumer, "broker", made, raising=False)
    monkeypatch.setattr(kafka_source, "KafkaConsumer", MemoryConsumer)
    monkeypatch.setattr(kafka_source, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(kafka_source, "PROBE_SECONDS", 0.01)
    yield made


def source(reconnect_seconds: float = 0.1, allow_loss: bool = False) -> RowSource:
    return RowSource("memory:1", "rows", "group", reconnect_seconds, allow_loss=allow_loss)


def exhausted(rows: RowSource) -> list[bool]:
    return [held.exhausted for held in rows.held(100)]


@pytest.mark.parametrize(
    ("start", "offsets"),
    [
        ("earliest", {0: 0, 1: 0}),
        ("committed", {0: 0, 1: 0}),
        ("latest", {0: 6, 1: 3}),
        ("1:2", {0: 0, 1: 2}),
        ("0:6,1:3", {0: 6, 1: 3}),
    ],
)
def test_a_start_names_an_offset_in_every_partition(
    broker: Broker, start: str, offsets: dict[int, int]
) -> None:
    assert source().resolve_start(start) == Position(offsets)


@pytest.mark.parametrize(
    ("start", "complaint"),
    [
        ("soon", "expected committed, earliest"),
        ("2026-13-01T00:00:00", "an ISO time"),
        ("0:one", "expected partition:offset"),
        ("0:1:2", "expected partition:offset"),
        ("2:0", "no partition 2"),
        ("1:4", "ends at offset 3"),
    ],
)
def test_a_start_that_means_nothing_is_refused(broker: Broker, start: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        source().resolve_start(start)


def test_a_start_that_retention_has_deleted_is_refused_unless_loss_is_allowed(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.first[0] = 4
    with pytest.raises(SourceError, match=r"partition 0 .* 3 rows from offset 1 on are deleted"):
        source().resolve_start("0:1")
    rows = source(allow_loss=True)
    position = rows.resolve_start("0:1")
    assert position == Position({0: 1, 1: 0})  # so that the first row covers the deleted ones
    rows.seek(position)
    assert "3 rows are gone" in caplog.text
    rows.poll(0)
    assert rows.held(10)[0].offset.tolist() == [4, 5]


def test_rows_deleted_before_they_were_fetched_are_refused_or_skipped(broker: Broker) -> None:
    for allow_loss in (False, True):
        broker.first[0] = 0
        rows = source(allow_loss=allow_loss)
        rows.seek(Position({0: 0, 1: 0}))
        rows.poll(0)
        broker.first[0] = 4
        if allow_loss:
            rows.poll(0)
            rows.poll(0)
            assert rows.held(10)[0].offset.tolist() == [0, 1, 4, 5]
        else:
            with pytest.raises(SourceError, match="2 rows from offset 2 on are deleted"):
                rows.poll(0)


def test_rows_stay_held_in_order_until_they_are_dropped(broker: Broker) -> None:
    rows = source()
    rows.seek(Position({0: 1, 1: 0}))
    for _ in range(3):
        rows.poll(0)
    assert rows.held(2)[0].values == [b"1", b"2"]
    rows.drop(0, 1)
    first, second = rows.held(100)
    assert (first.partition, second.partition) == (0, 1)
    assert first.values == [b"2", b"3", b"4", b"5"]
    assert first.offset.tolist() == [2, 3, 4, 5]
    assert first.timestamp.tolist() == [102, 103, 104, 105]
    assert rows.waiting() == 7


def test_a_partition_is_exhausted_once_all_its_rows_are_handed_out(broker: Broker) -> None:
    rows = source()
    assert exhausted(rows) == [False, False]
    rows.seek(Position({0: 0, 1: 3}))
    assert exhausted(rows) == [False, True]
    for _ in range(3):
        rows.poll(0)
    assert exhausted(rows) == [True, True]
    assert [held.exhausted for held in rows.held(5)] == [False, True]


def test_a_seek_asks_anew_where_the_partitions_end(broker: Broker) -> None:
    rows = source()
    rows.seek(Position({0: 6, 1: 3}))
    rows.poll(0)
    broker.rows[0] = 8
    rows.seek(Position({0: 6, 1: 3}))
    assert exhausted(rows) == [False, True]


def test_a_partition_that_holds_much_is_paused_until_half_of_it_is_gone(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "MAX_HELD_ROWS", 8)
    broker.rows[0] = 100
    rows = source()
    rows.seek(Position({0: 0, 1: 3}))
    for _ in range(10):
        rows.poll(0)
    assert rows.waiting() == 4
    rows.drop(0, 1)
    rows.poll(0)
    assert rows.waiting() == 3
    rows.drop(0, 1)
    rows.poll(0)
    rows.poll(0)
    assert rows.held(100)[0].offset.tolist() == [2, 3, 4, 5]


def test_a_paused_partition_is_not_exhausted_and_its_new_end_is_known_when_it_goes_on(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "MAX_HELD_ROWS", 4)
    broker.rows = {0: 2, 1: 0}
    rows = source()
    rows.seek(Position({0: 0, 1: 0}))
    rows.poll(0)
    broker.rows[0] = 5
    assert exhausted(rows) == [False, True]
    rows.drop(0, 2)
    rows.poll(0)
    assert rows.waiting() == 0
    assert exhausted(rows) == [False, True]


def test_a_broker_that_stays_away_ends_a_poll_after_reconnect_seconds(broker: Broker) -> None:
    rows = source(reconnect_seconds=0.1)
    rows.seek(Position({0: 6, 1: 3}))
    broker.away = True
    with pytest.raises(SourceError, match="has been away"):
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            rows.poll(0.01)


def test_a_request_is_repeated_until_the_broker_is_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = source(reconnect_seconds=60)
    broker.away = True
    monkeypatch.setattr(
        "src.stream.kafka_source.time.sleep", lambda seconds: setattr(broker, "away", False)
    )
    assert rows.resolve_start("latest") == Position({0: 6, 1: 3})


def test_a_request_gives_up_at_a_stop(broker: Broker) -> None:
    stop: list[bool] = []
    rows = RowSource("memory:1", "rows", "group", 60, lambda: bool(stop))
    broker.away = True
    stop.append(True)
    with pytest.raises(SourceError, match="gave up"):
        rows.committed()


def test_a_connection_lost_in_a_poll_is_waited_for(broker: Broker) -> None:
    rows = source(reconnect_seconds=60)
    rows.seek(Position({0: 0, 1: 0}))
    broker.poll_error = KafkaConnectionError("refused")
    rows.poll(0.01)
    broker.poll_error = None
    rows.poll(0.01)
    assert [held.values for held in rows.held(9)] == [[b"0", b"1"], [b"0", b"1"]]


def test_an_error_that_no_wait_mends_ends_a_poll_at_once(broker: Broker) -> None:
    rows = source(reconnect_seconds=60)
    broker.poll_error = TopicAuthorizationFailedError("rows")
    with pytest.raises(SourceError, match="reading rows: .*TopicAuthorizationFailed"):
        rows.poll(0.01)


def test_the_ends_are_asked_for_once_and_a_broker_that_is_away_raises_nothing(
    broker: Broker,
) -> None:
    rows = source(reconnect_seconds=60)
    assert rows.try_ends() == {0: 6, 1: 3}
    broker.away = True
    assert rows.try_ends() is None


def test_the_lag_of_a_partition_counts_what_is_held_and_what_is_not_fetched_yet(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = source()
    rows.seek(Position({0: 2, 1: 3}))
    rows.poll(0.01)
    monkeypatch.setattr("src.stream.kafka_source.time.time", lambda: 10.0)
    lag = rows.lag()
    assert (lag[0].rows, lag[1].rows) == (4, 0)
    assert lag[0].seconds == pytest.approx(10.0 - 0.102)  # sent at 102 ms
    assert lag[1].seconds == 0.0
    rows.drop(0, 1)
    assert rows.lag()[0].rows == 3
