"""Rows of a broker in memory: held in order, paused, exhausted, dropped."""

from __future__ import annotations

from uuid import UUID

import pytest

from src.cluster.broker import SourceError
from src.cluster.topic_identity import OtherTopic
from src.stream import row_source
from src.stream.position import Position
from src.stream.row_source import RowSource
from tests.stream.memory_broker import Broker, source


def exhausted(rows: RowSource) -> list[bool]:
    return [held.exhausted for held in rows.held(100)]


def test_rows_deleted_before_they_were_fetched_are_refused_or_skipped(
    memory_broker: Broker,
) -> None:
    for allow_loss in (False, True):
        memory_broker.first[0] = 0
        rows = source(allow_loss=allow_loss)
        rows.seek(Position({0: 0, 1: 0}))
        rows.poll(0)
        memory_broker.first[0] = 4
        if allow_loss:
            rows.poll(0)
            rows.poll(0)
            assert rows.held(10)[0].offset.tolist() == [0, 1, 4, 5]
        else:
            with pytest.raises(SourceError, match="2 rows from offset 2 on are deleted"):
                rows.poll(0)


def test_rows_stay_held_in_order_until_they_are_dropped(memory_broker: Broker) -> None:
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


def test_a_partition_is_exhausted_once_all_its_rows_are_handed_out(memory_broker: Broker) -> None:
    rows = source()
    assert exhausted(rows) == [False, False]
    rows.seek(Position({0: 0, 1: 3}))
    assert exhausted(rows) == [False, True]
    for _ in range(3):
        rows.poll(0)
    assert exhausted(rows) == [True, True]
    assert [held.exhausted for held in rows.held(5)] == [False, True]


def test_a_seek_asks_anew_where_the_partitions_end(memory_broker: Broker) -> None:
    rows = source()
    rows.seek(Position({0: 6, 1: 3}))
    rows.poll(0)
    memory_broker.rows[0] = 8
    rows.seek(Position({0: 6, 1: 3}))
    assert exhausted(rows) == [False, True]


def test_a_partition_that_holds_much_is_paused_until_half_of_it_is_gone(
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_source, "MAX_HELD_ROWS", 8)
    memory_broker.rows[0] = 100
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
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_source, "MAX_HELD_ROWS", 4)
    memory_broker.rows = {0: 2, 1: 0}
    rows = source()
    rows.seek(Position({0: 0, 1: 0}))
    rows.poll(0)
    memory_broker.rows[0] = 5
    assert exhausted(rows) == [False, True]
    rows.drop(0, 2)
    rows.poll(0)
    assert rows.waiting() == 0
    assert exhausted(rows) == [False, True]


def test_the_lag_of_a_partition_counts_what_is_held_and_what_is_not_fetched_yet(
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = source()
    rows.seek(Position({0: 2, 1: 3}))
    rows.poll(0.01)
    monkeypatch.setattr("src.stream.row_source.time.time", lambda: 10.0)
    lag = rows.lag()
    assert (lag[0].rows, lag[1].rows) == (4, 0)
    assert lag[0].seconds == pytest.approx(10.0 - 0.102)  # sent at 102 ms
    assert lag[1].seconds == 0.0
    rows.drop(0, 1)
    assert rows.lag()[0].rows == 3


def test_rows_after_a_pause_are_held_only_if_the_topic_is_still_the_same(
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_source, "UNWATCHED_SECONDS", -1.0)  # every poll is after a pause
    with source() as rows:
        rows.seek(Position({0: 0, 1: 0}))
        rows.poll(0)
        memory_broker.topic_id = UUID(int=2)
        with pytest.raises(OtherTopic):
            rows.poll(0)
        assert [len(held.values) for held in rows.held(10)] == [2, 2]
