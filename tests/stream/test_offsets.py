"""Where to start reading a broker in memory."""

from __future__ import annotations

import pytest

from src.cluster.broker import SourceError
from src.stream.position import Position
from tests.stream.memory_broker import Broker, source


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
    memory_broker: Broker, start: str, offsets: dict[int, int]
) -> None:
    assert source().resolve_start(start) == Position(offsets)


@pytest.mark.parametrize(
    ("start", "complaint"),
    [
        ("soon", "expected committed, earliest"),
        ("2026-13-01T00:00:00", "an ISO time"),
        ("1969-12-31T23:59:59.999", "begins in 1970"),
        ("0:one", "expected partition:offset"),
        ("0:1:2", "expected partition:offset"),
        ("2:0", "no partition 2"),
        ("1:4", "ends at offset 3"),
    ],
)
def test_a_start_that_means_nothing_is_refused(
    memory_broker: Broker, start: str, complaint: str
) -> None:
    with pytest.raises(SourceError, match=complaint):
        source().resolve_start(start)


def test_a_start_that_retention_has_deleted_is_refused_unless_loss_is_allowed(
    memory_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    memory_broker.first[0] = 4
    with pytest.raises(SourceError, match=r"partition 0 .* 3 rows from offset 1 on are deleted"):
        source().resolve_start("0:1")
    rows = source(allow_loss=True)
    position = rows.resolve_start("0:1")
    assert position == Position({0: 1, 1: 0})  # so that the first row covers the deleted ones
    rows.seek(position)
    assert "3 rows are gone" in caplog.text
    rows.poll(0)
    assert rows.held(10)[0].offset.tolist() == [4, 5]


def test_the_ends_are_asked_for_once_and_a_broker_that_is_away_raises_nothing(
    memory_broker: Broker,
) -> None:
    rows = source(reconnect_seconds=60)
    assert rows.try_ends() == {0: 6, 1: 3}
    memory_broker.away = True
    assert rows.try_ends() is None
