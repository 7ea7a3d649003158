"""A broker in memory, and what the stream's modules use of a KafkaConsumer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

from kafka import TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError, OffsetOutOfRangeError

from src.stream.record_batches import Record
from src.stream.row_source import RowSource


class Broker:
    """Two partitions in memory; rows below ``first`` are deleted, ``away`` fails every request."""

    def __init__(self) -> None:
        self.first = {0: 0, 1: 0}
        self.rows = {0: 6, 1: 3}
        self.away = False
        self.topic_id = UUID(int=1)
        self.poll_error: KafkaError | None = None

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
        self._fetcher = SimpleNamespace(_parse_fetched_data=None)
        self._cluster = SimpleNamespace(
            topic_id=lambda topic: self.broker.topic_id,
            request_update=lambda: None,
            partitions_for_topic=lambda topic: self.broker.rows or None,
        )
        self._manager = SimpleNamespace(wait_for=None)
        self._net = SimpleNamespace(run=lambda *arguments: self.broker.check())

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

    def highwater(self, handle: TopicPartition) -> int | None:
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
                    Record(offset, 100 + offset, None, b"%d" % offset) for offset in taken
                ]
                self.places[number] = taken[-1] + 1
        return found

    def close(self, **options: Any) -> None:
        pass


def source(reconnect_seconds: float = 0.1, allow_loss: bool = False) -> RowSource:
    return RowSource("memory:1", "rows", "group", reconnect_seconds, allow_loss=allow_loss)
