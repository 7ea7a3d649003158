"""What the consumer publishes of offsets without rows, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from src.consumer.empty_stretches import EmptyStretches
from src.stream.position import Stretch
from src.stream.row_source import RowSource


class Published:
    """A source of which only the end of what it has fetched is looked at."""

    def __init__(self) -> None:
        self.until = {0: 10, 1: 4}
        self.stretches: list[dict[int, Stretch]] = []
        self.works = True

    def fetched_until(self) -> dict[int, int]:
        return self.until

    def try_publish_empty(self, stretches: Mapping[int, Stretch]) -> bool:
        self.stretches.append(dict(stretches))
        return self.works


def test_what_is_new_is_published_once_and_at_most_once_a_second() -> None:
    source, now = Published(), [0.0]
    empty = EmptyStretches(cast(RowSource, source), lambda: now[0])
    empty.publish({0: 7, 1: 4})
    assert source.stretches == []
    now[0] = 1.0
    empty.publish({0: 7, 1: 4})
    empty.publish({0: 7, 1: 4})
    assert source.stretches == [{0: (7, 10)}]
    now[0] = 2.0
    empty.publish({0: 7, 1: 4})
    assert len(source.stretches) == 1
    now[0], source.until = 3.0, {1: 6}  # rows of partition 0 are held
    empty.publish({0: 7, 1: 4})
    assert source.stretches[1:] == [{0: (7, 10), 1: (4, 6)}]


def test_what_could_not_be_published_is_tried_again() -> None:
    source, now = Published(), [0.0]
    empty = EmptyStretches(cast(RowSource, source), lambda: now[0])
    source.works = False
    for now[0] in (1.0, 2.0):
        empty.publish({0: 7, 1: 4})
    assert source.stretches == [{0: (7, 10)}] * 2
