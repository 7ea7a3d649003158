"""Where consumer and trainer read the topic: partitions → rows with offsets, and commits.

Guarantee: after a seek, every message of every partition is returned in offset order, from the
wanted position on. It stays held until it is dropped. Nothing is committed unless ``commit`` is
called. Partitions are assigned by hand; the group only holds the committed offsets.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np
from kafka.errors import KafkaError, KafkaTimeoutError, OffsetOutOfRangeError

from src.cluster.broker import FETCH_WAIT_SECONDS, QUICK_REQUEST_MS, RETRY_SECONDS, SourceError
from src.cluster.settings import ClientSettings
from src.process.arrays import Array
from src.stream.fetches import FetchWatch, UnreadableFetch
from src.stream.position import PartitionLag, Position
from src.stream.record_batches import Record, Unreadable
from src.stream.topic_group import TopicGroup

logger = logging.getLogger(__name__)

MAX_HELD_ROWS = 200_000
UNWATCHED_SECONDS = FETCH_WAIT_SECONDS
"""Between two polls: so long a fetch is under way. A topic is not made anew and filled faster."""
FETCHES_ONE_BY_ONE = 100
"""So many offsets are tried one by one where no fetch can be read."""


@dataclass(frozen=True)
class HeldRows:
    """The first messages held of one partition.

    Attributes:
        partition: Its number.
        values: The raw message values.
        offset: int64[messages].
        timestamp: int64[messages], ms since 1970; -1 where it is not known.
        exhausted: Whether nothing can be read in this partition beyond these messages: the topic
            holds no more, or an open transaction comes next.
        unreadable: Those among them that can't be read, by offset; their value here is None.
    """

    partition: int
    values: list[bytes | None]
    offset: Array
    timestamp: Array
    exhausted: bool
    unreadable: Mapping[int, Unreadable] = field(default_factory=dict)


class _Queue:
    """The messages held of one partition, oldest first."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.offsets: list[int] = []
        self.timestamps: list[int] = []
        self.unreadable: dict[int, Unreadable] = {}

    def extend(self, records: Sequence[Record | Unreadable]) -> None:
        self.values.extend([record.value for record in records])
        self.offsets.extend([record.offset for record in records])
        self.timestamps.extend([record.timestamp for record in records])
        self.unreadable.update(
            {record.offset: record for record in records if isinstance(record, Unreadable)}
        )

    def drop(self, rows: int) -> None:
        for offset in self.offsets[:rows] if self.unreadable else ():
            self.unreadable.pop(offset, None)
        del self.values[:rows], self.offsets[:rows], self.timestamps[:rows]

    def __len__(self) -> int:
        return len(self.values)


class RowSource(TopicGroup):
    """Reads a topic's partitions, and reads and writes the group's commit.

    Args:
        cluster: host:port,... or all settings of the connection.
        topic: The topic.
        group_id: The group whose committed offsets are the stream's position.
        reconnect_seconds: How long to wait for a broker that went away.
        stopped: Called while waiting; True gives up at once.
        allow_loss: Where retention has deleted the wanted row, start at the first row there is.
            Pass over messages that can't be read.

    Raises:
        SourceError: No broker answers, or there is no such topic.
    """

    def __init__(
        self,
        cluster: str | ClientSettings,
        topic: str,
        group_id: str,
        reconnect_seconds: float = 60,
        stopped: Callable[[], bool] = lambda: False,
        allow_loss: bool = False,
    ) -> None:
        super().__init__(cluster, topic, group_id, reconnect_seconds, stopped, allow_loss)
        self._allow_loss = allow_loss
        self._fetches = FetchWatch(self._broker.consumer)
        self._queues = {number: _Queue() for number in self.partitions}
        self._paused: set[int] = set()
        self._least_end: dict[int, int] = {}
        self._failed_fetches: Counter[int] = Counter()
        self._polled_at = time.monotonic()
        self._interrupted = False

    def seek(self, position: Position) -> None:
        """Drops everything held and reads on from a position.

        Raises:
            SourceError: The broker stayed away for longer than reconnect_seconds, or retention has
                deleted the wanted rows.
        """
        # Earlier fetches may have seen less of the topic than it holds by now.
        self._least_end = self._offsets.ends()
        self._fetch_from(position.reached, self._least_end)
        self._queues = {number: _Queue() for number in self.partitions}
        self._broker.consumer.resume(*self._broker.handles.values())
        self._paused.clear()

    def poll(self, timeout_seconds: float) -> None:
        """Fetches what is there, waiting up to ``timeout_seconds`` for something.

        Raises:
            SourceError: The broker stayed away for longer than reconnect_seconds, retention has
                deleted rows before they were read, or a message can't be read.
        """
        self._interrupted |= time.monotonic() - self._polled_at > UNWATCHED_SECONDS
        batches: dict[Any, Sequence[Record | Unreadable]] = {}
        try:
            batches = self._broker.consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        except OffsetOutOfRangeError:
            self.check_topic()
            self._skip_deleted_rows()
        except UnreadableFetch as error:
            self._pass_over(error)
        except KafkaError as error:
            self._interrupted = True
            if not error.retriable:
                self.check_topic()
                raise SourceError(f"reading {self._broker.topic}: {error}") from None
            # A refused or lost connection raises at once: don't ask again at full speed.
            time.sleep(min(timeout_seconds, RETRY_SECONDS))
        self._check_topic(bool(batches))
        for handle, records in batches.items():
            self._hold(handle.partition, records)
        if batches:
            self._broker.note_answer()
        else:
            self._broker.probe()
        self._bound_memory()

    def waiting(self) -> int:
        """How many messages are held."""
        return sum(map(len, self._queues.values()))

    def lag(self) -> dict[int, PartitionLag]:
        """The lag of each partition, by the ends that the broker reported with the last rows."""
        lags = {}
        for number, queue in self._queues.items():
            end = self._known_end(number)
            # With an empty queue, all that was fetched has been taken.
            next_offset = queue.offsets[0] if queue.offsets else (self._next_fetch(number) or end)
            sent = queue.timestamps[0] if queue.timestamps else None
            age: float | None = 0.0
            if sent is not None:
                age = None if sent < 0 else max(time.time() - sent / 1000, 0.0)
            lags[number] = PartitionLag(max(end - next_offset, 0), age)
        return lags

    def held(self, limit_per_partition: int) -> list[HeldRows]:
        """The first messages held of each partition, in partition order; they stay held."""
        found = []
        for number in self.partitions:
            queue = self._queues[number]
            count = min(len(queue), limit_per_partition)
            found.append(
                HeldRows(
                    number,
                    queue.values[:count],
                    np.array(queue.offsets[:count], dtype=np.int64),
                    np.array(queue.timestamps[:count], dtype=np.int64),
                    count == len(queue) and self._at_end(number),
                    dict(queue.unreadable),
                )
            )
        return found

    def fetched_until(self) -> dict[int, int]:
        """Partition → the offset up to which all was fetched, where nothing of it is held."""
        return {
            number: int(self._next_fetch(number))
            for number, queue in self._queues.items()
            if not queue and number in self._least_end
        }

    def held_back(self) -> dict[int, int]:
        """Partition → offsets that can't be read yet, as an open transaction comes before them."""
        return {number: count for number, count in self._fetches.held_back.items() if count > 0}

    def drop(self, partition: int, rows: int) -> None:
        """Releases the first held messages of a partition."""
        self._queues[partition].drop(rows)

    def _known_end(self, number: int) -> int:
        """Where a partition ended when the broker last reported it."""
        reported = self._broker.consumer.highwater(self._broker.handles[number]) or 0
        return max(reported, self._least_end.get(number, 0))

    def _next_fetch(self, number: int) -> Any:
        """The offset from which a partition is fetched next; None before the first seek."""
        handle = self._broker.handles[number]
        return self._broker.consumer.position(handle, timeout_ms=QUICK_REQUEST_MS)

    def _at_end(self, number: int) -> bool:
        """Whether everything has been fetched that the broker last reported.

        A paused partition is not fetched, so its present end is not known.
        """
        if number in self._paused or number not in self._least_end:
            return False
        return bool(self._next_fetch(number) >= self._known_end(number))

    def _skip_deleted_rows(self) -> None:
        """Goes on after rows that were deleted before they could be fetched, if that is allowed.

        What is held stays held. The next row fetched covers the deleted ones.
        """
        reached = {number: int(self._next_fetch(number)) for number in self.partitions}
        self._fetch_from(reached, self._offsets.ends())

    def _fetch_from(self, wanted: Mapping[int, int], ends: Mapping[int, int]) -> None:
        for number, offset in self._offsets.reachable(wanted, ends).items():
            self._broker.consumer.seek(self._broker.handles[number], offset)
            gone = offset - wanted.get(number, 0)
            if gone > 0:
                logger.warning("partition %d: %d rows are gone, going on", number, gone)

    def _check_topic(self, has_rows: bool) -> None:
        """Makes sure that rows just fetched are of the same topic as those before.

        A fetch that is under way when the topic is deleted is refused. If none was, because the
        broker was away or nobody polled, only a question can tell.

        Raises:
            OtherTopic: They are not, or there is no such topic any more.
            SourceError: No broker could tell for reconnect_seconds.
        """
        if has_rows and (self._interrupted or self._fetches.refused):
            self._broker.request("checking the topic", self._verify_topic)
            self._interrupted = self._fetches.refused = False
        elif self._fetches.refused:
            self._fetches.refused, self._interrupted = False, True
            self.check_topic()
        else:
            self._identity.check_now_and_then()
        self._polled_at = time.monotonic()

    def _verify_topic(self) -> None:
        if not self.check_topic():
            raise KafkaTimeoutError("no answer")

    def _hold(self, number: int, records: Sequence[Record | Unreadable]) -> None:
        """Holds what a fetch has returned; names messages that can't be read.

        Raises:
            SourceError: There is one, and loss is not allowed.
        """
        queue, known = self._queues[number], len(self._queues[number].unreadable)
        queue.extend(records)
        self._failed_fetches.pop(number, None)
        for record in list(queue.unreadable.values())[known:]:
            self._refuse_unreadable(number, record)

    def _refuse_unreadable(self, number: int, record: Unreadable) -> None:
        which = f"the message at offset {record.offset}"
        if record.first_offset < record.offset:
            which = f"the messages at offsets {record.first_offset} to {record.offset}"
        text = f"partition {number} of {self._broker.topic}: {which} can't be read: {record.reason}"
        if not self._allow_loss:
            raise SourceError(f"{text}; --allow_loss goes on without")
        logger.warning("%s, going on", text)

    def _pass_over(self, error: UnreadableFetch) -> None:
        """Goes on after an offset at which no fetch can be read; what it held is not known.

        Later offsets are tried one by one, and then in growing steps: one damage can spoil all
        that the broker finds by way of it.

        Raises:
            SourceError: Loss is not allowed.
        """
        number, first = error.partition, error.offset
        self._failed_fetches[number] += 1
        step = 1 << max(self._failed_fetches[number] - FETCHES_ONE_BY_ONE, 0)
        last = max(min(first + step, self._known_end(number)) - 1, first)
        record = Unreadable(last, first, b"", error.reason)
        self._queues[number].extend([record])
        self._refuse_unreadable(number, record)
        self._broker.consumer.seek(self._broker.handles[number], last + 1)

    def _bound_memory(self) -> None:
        """Pauses a partition that holds much, until it holds half of that."""
        limit = max(MAX_HELD_ROWS // len(self.partitions), 1)
        for number, queue in self._queues.items():
            if len(queue) >= limit and number not in self._paused:
                self._broker.consumer.pause(self._broker.handles[number])
                self._paused.add(number)
            elif len(queue) <= limit // 2 and number in self._paused:
                self._resume(number)

    def _resume(self, number: int) -> None:
        """Fetches a paused partition again, once the broker has reported its present end."""
        try:
            self._least_end.update(self._broker.request_ends([number]))
        except KafkaError as error:
            logger.debug("partition %d stays paused: %s", number, error)
            return
        self._broker.consumer.resume(self._broker.handles[number])
        self._paused.discard(number)
