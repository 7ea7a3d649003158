"""Patience with a broker in memory that is away."""

from __future__ import annotations

import time

import pytest
from kafka.errors import KafkaConnectionError, TopicAuthorizationFailedError

from src.cluster.broker import SourceError
from src.stream.position import Position
from src.stream.row_source import RowSource
from tests.stream.memory_broker import Broker, source


def test_a_broker_that_stays_away_ends_a_poll_after_reconnect_seconds(
    memory_broker: Broker,
) -> None:
    rows = source(reconnect_seconds=0.1)
    rows.seek(Position({0: 6, 1: 3}))
    memory_broker.away = True
    with pytest.raises(SourceError, match="has been away"):
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            rows.poll(0.01)


def test_a_request_is_repeated_until_the_broker_is_back(
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = source(reconnect_seconds=60)
    memory_broker.away = True
    monkeypatch.setattr(
        "src.cluster.broker.time.sleep",
        lambda seconds: setattr(memory_broker, "away", False),
    )
    assert rows.resolve_start("latest") == Position({0: 6, 1: 3})
    assert "asking for offsets failed, trying again: no answer in time" in caplog.text


def test_a_request_gives_up_at_a_stop(memory_broker: Broker) -> None:
    stop: list[bool] = []
    rows = RowSource("memory:1", "rows", "group", 60, lambda: bool(stop))
    memory_broker.away = True
    stop.append(True)
    with pytest.raises(SourceError, match="gave up"):
        rows.committed()


def test_a_connection_lost_in_a_poll_is_waited_for(memory_broker: Broker) -> None:
    rows = source(reconnect_seconds=60)
    rows.seek(Position({0: 0, 1: 0}))
    memory_broker.poll_error = KafkaConnectionError("refused")
    rows.poll(0.01)
    memory_broker.poll_error = None
    rows.poll(0.01)
    assert [held.values for held in rows.held(9)] == [[b"0", b"1"], [b"0", b"1"]]


def test_an_error_that_no_wait_mends_ends_a_poll_at_once(memory_broker: Broker) -> None:
    rows = source(reconnect_seconds=60)
    memory_broker.poll_error = TopicAuthorizationFailedError("rows")
    with pytest.raises(SourceError, match="reading rows: .*TopicAuthorizationFailed"):
        rows.poll(0.01)
