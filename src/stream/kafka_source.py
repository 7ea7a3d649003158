"""The broker edge of the consumer and the trainer: partitions → rows with offsets, and commits.

Guarantee: from the position it was told to seek, every message of every partition is handed out in
offset order and stays held until it is dropped. Nothing is committed unless ``commit`` is called;
the group is used for its committed offsets alone, partitions are assigned by hand.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, Callable, Optional, TypeVar

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from src.process.arrays import Array
from src.stream.position import Commit, PartitionLag, Position

logger = logging.getLogger(__name__)

MAX_HELD_ROWS = 200_000
MAX_POLL_ROWS = 10_000
REQUEST_SECONDS = 5.0
RETRY_SECONDS = 0.5
PROBE_SECONDS = 1.0
FETCH_WAIT_SECONDS = 0.1  # what is asked about offsets waits behind a fetch at the stream's end

T = TypeVar("T")


class SourceError(RuntimeError):
    """The broker, topic or wanted offset is not there; one line says which."""


@dataclass(frozen=True)
class HeldRows:
    """The first messages held of one partition.

    Attributes:
        partition: Its number.
        values: The raw message values.
        offset: int64[messages].
        timestamp: int64[messages], ms since 1970.
        exhausted: Whether the topic holds nothing in this partition beyond these messages.
    """

    partition: int
    values: list[Optional[bytes]]
    offset: Array
    timestamp: Array
    exhausted: bool


class _Queue:
    """The messages held of one partition, oldest first."""

    def __init__(self) -> None:
        self.values: list[Optional[bytes]] = []
        self.offsets: list[int] = []
        self.timestamps: list[int] = []

    def extend(self, records: list[Any]) -> None:
        self.values.extend([record.value for record in records])
        self.offsets.extend([record.offset for record in records])
        self.timestamps.extend([record.timestamp for record in records])

    def drop(self, rows: int) -> None:
        del self.values[:rows], self.offsets[:rows], self.timestamps[:rows]

    def __len__(self) -> int:
        return len(self.values)


class RowSource:
    """Reads a topic's partitions and keeps the group's commit.

    Args:
        bootstrap_servers: host:port,...
        topic: The topic.
        group_id: The group whose committed offsets are the stream's position.
        reconnect_seconds: How long a broker that went away is waited for.
        stopped: Asked while waiting; True gives up at once.
        allow_loss: Go on at the first row there is where retention has deleted the wanted one.

    Raises:
        SourceError: No broker answers, or there is no such topic.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        group_id: str,
        reconnect_seconds: float = 60,
        stopped: Callable[[], bool] = lambda: False,
        allow_loss: bool = False,
    ) -> None:
        self._servers = bootstrap_servers
        self._topic = topic
        self._reconnect_seconds = reconnect_seconds
        self._stopped = stopped
        self._allow_loss = allow_loss
        self._heard_at = self._probed_at = time.monotonic()
        try:
            self._consumer = KafkaConsumer(
                bootstrap_servers=bootstrap_servers.split(","),
                group_id=group_id,
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                bootstrap_timeout_ms=10_000,
                max_poll_records=MAX_POLL_ROWS,
                max_partition_fetch_bytes=4 << 20,
                fetch_max_wait_ms=int(1000 * FETCH_WAIT_SECONDS),
                reconnect_backoff_max_ms=1_000,
                request_timeout_ms=10_000,
                metrics_enabled=False,
            )
        except (KafkaError, ValueError) as error:
            raise SourceError(f"no broker answers at {bootstrap_servers}: {error}") from None
        try:
            self.partitions = self._find_partitions()
        except SourceError:
            self.close()
            raise
        self._handles = {number: TopicPartition(topic, number) for number in self.partitions}
        self._consumer.assign(list(self._handles.values()))
        self._queues = {number: _Queue() for number in self.partitions}
        self._paused: set[int] = set()
        self._least_end: dict[int, int] = {}

    def __enter__(self) -> RowSource:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the broker."""
        self._consumer.close(autocommit=False, timeout_ms=2_000)

    def committed(self) -> Optional[Commit]:
        """What the group has committed for the topic, or None where it has nothing yet."""
        found = {
            number: self._patiently("reading the committed position", self._ask_committed(handle))
            for number, handle in self._handles.items()
        }
        known = {number: entry for number, entry in found.items() if entry is not None}
        if not known:
            return None
        missing = [number for number in self.partitions if number not in known]
        offsets = {number: int(entry.offset) for number, entry in known.items()}
        # A partition added since the last commit starts at its beginning.
        offsets.update(self._beginnings(missing))
        return Commit.from_offsets(offsets, next(iter(known.values())).metadata)

    def commit(self, commit: Commit) -> None:
        """Commits a position with its session, for all partitions at once.

        Raises:
            SourceError: The broker stayed away for longer than reconnect_seconds.
        """
        self._patiently("committing the position", lambda: self._commit_once(commit))

    def try_commit(self, commit: Commit) -> bool:
        """Commits once and only says whether it worked: a later commit makes up for a lost one."""
        try:
            self._commit_once(commit)
        except KafkaError as error:
            logger.warning("position %s is not committed: %s", commit.position, error)
            return False
        return True

    def try_ends(self) -> Optional[dict[int, int]]:
        """Where each partition ends by now; None where nobody answers within a second."""
        try:
            return self._ends_at_once(self.partitions)
        except KafkaError as error:
            logger.debug("the ends of %s are not known: %s", self._topic, error)
            return None

    def _commit_once(self, commit: Commit) -> None:
        metadata = commit.metadata()
        offsets = {
            self._handles[number]: OffsetAndMetadata(offset, metadata, -1)
            for number, offset in commit.position.offsets.items()
        }
        self._consumer.commit(offsets, timeout_ms=int(REQUEST_SECONDS * 1000))

    def resolve_start(self, start: str) -> Position:
        """Where to begin reading.

        Args:
            start: "committed" (earliest where nothing is), "earliest", "latest", an ISO time such
                as 2026-11-24T10:00:00 (UTC unless it says otherwise), or "partition:offset,...".

        Raises:
            SourceError: ``start`` can't be read, or retention has deleted the wanted rows.
        """
        committed = self.committed() if start == "committed" else None
        if committed is not None:
            position = committed.position
        elif start in ("committed", "earliest"):
            position = Position(self._beginnings(self.partitions))
        elif start == "latest":
            position = Position(self._ends())
        elif ":" in start and "-" not in start:
            position = Position({**self._beginnings(self.partitions), **self._named_offsets(start)})
        else:
            position = Position(self._offsets_at(start))
        self._reachable(position.offsets, self._ends())
        return position

    def seek(self, position: Position) -> None:
        """Drops everything held and reads on from a position.

        Raises:
            SourceError: The broker stayed away for longer than reconnect_seconds, or retention has
                deleted the wanted rows.
        """
        # The fetches before may have seen less of the topic than it holds by now.
        self._least_end = self._ends()
        self._fetch_from(position.offsets, self._least_end)
        self._queues = {number: _Queue() for number in self.partitions}
        self._consumer.resume(*self._handles.values())
        self._paused.clear()

    def poll(self, timeout_seconds: float) -> None:
        """Fetches what is there, waiting up to ``timeout_seconds`` for something.

        Raises:
            SourceError: The broker stayed away for longer than reconnect_seconds, or retention has
                deleted rows before they were read.
        """
        try:
            batches = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        except OffsetOutOfRangeError:
            self._skip_deleted_rows()
            batches = {}
        except KafkaError as error:
            if not error.retriable:
                raise SourceError(f"reading {self._topic}: {error}") from None
            # A connection refused or lost comes out at once: don't ask again at full speed.
            time.sleep(min(timeout_seconds, RETRY_SECONDS))
            batches = {}
        for handle, records in batches.items():
            self._queues[handle.partition].extend(records)
        if batches:
            self._heard_at = time.monotonic()
        else:
            self._probe_broker()
        self._bound_memory()

    def waiting(self) -> int:
        """How many messages are held."""
        return sum(map(len, self._queues.values()))

    def lag(self) -> dict[int, PartitionLag]:
        """How far each partition is behind, from what the broker said with the last rows."""
        lags = {}
        for number, queue in self._queues.items():
            handle = self._handles[number]
            end = max(self._consumer.highwater(handle) or 0, self._least_end.get(number, 0))
            if queue.offsets:
                next_offset = queue.offsets[0]
            else:  # all that was fetched has been taken
                next_offset = self._consumer.position(handle, timeout_ms=1_000) or end
            oldest = time.time() - queue.timestamps[0] / 1000 if queue.timestamps else 0.0
            lags[number] = PartitionLag(max(end - next_offset, 0), max(oldest, 0.0))
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
                )
            )
        return found

    def drop(self, partition: int, rows: int) -> None:
        """Lets the first held messages of a partition go."""
        self._queues[partition].drop(rows)

    def _ask_committed(self, handle: TopicPartition) -> Callable[[], Any]:
        milliseconds = int(REQUEST_SECONDS * 1000)
        return lambda: self._consumer.committed(handle, metadata=True, timeout_ms=milliseconds)

    def _at_end(self, number: int) -> bool:
        """Whether everything has been fetched that the broker had, when it was asked last.

        A paused partition is not fetched, so what it holds by now is not known.
        """
        if number in self._paused or number not in self._least_end:
            return False
        handle = self._handles[number]
        end = max(self._consumer.highwater(handle) or 0, self._least_end[number])
        return bool(self._consumer.position(handle, timeout_ms=1_000) >= end)

    def _find_partitions(self) -> list[int]:
        found = self._patiently(
            "looking for the topic", lambda: self._consumer.partitions_for_topic(self._topic)
        )
        if not found:
            raise SourceError(
                f"there is no topic {self._topic} at {self._servers}: kafka_client.py makes it"
            )
        return sorted(found)

    def _beginnings(self, numbers: list[int]) -> dict[int, int]:
        return self._bounds(numbers, self._consumer.beginning_offsets)

    def _ends(self) -> dict[int, int]:
        return self._bounds(self.partitions, self._consumer.end_offsets)

    def _ends_at_once(self, numbers: list[int]) -> dict[int, int]:
        """The ends of some partitions, asked for once and waited for a second; or a KafkaError."""
        handles = [self._handles[number] for number in numbers]
        found = self._consumer.end_offsets(handles, timeout_ms=1_000)
        return {handle.partition: int(offset) for handle, offset in found.items()}

    def _bounds(self, numbers: list[int], ask: Callable[..., Any]) -> dict[int, int]:
        if not numbers:
            return {}
        handles = [self._handles[number] for number in numbers]
        found = self._patiently(
            "asking for offsets", lambda: ask(handles, timeout_ms=int(REQUEST_SECONDS * 1000))
        )
        return {handle.partition: int(offset) for handle, offset in found.items()}

    def _named_offsets(self, start: str) -> dict[int, int]:
        try:
            pairs = [part.split(":") for part in start.split(",")]
            offsets = {int(number): int(offset) for number, offset in pairs}
        except ValueError:
            raise SourceError(f"--start {start}: expected partition:offset,...") from None
        for number in offsets:
            if number not in self._handles:
                raise SourceError(f"--start {start}: {self._topic} has no partition {number}")
        return offsets

    def _offsets_at(self, start: str) -> dict[int, int]:
        try:
            moment = datetime.fromisoformat(start.replace("Z", "+00:00"))
        except ValueError:
            raise SourceError(
                f"--start {start}: expected committed, earliest, latest, an ISO time "
                "or partition:offset,..."
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        wanted = {handle: int(moment.timestamp() * 1000) for handle in self._handles.values()}
        found = self._patiently(
            "looking for the time",
            lambda: self._consumer.offsets_for_times(
                wanted, timeout_ms=int(REQUEST_SECONDS * 1000)
            ),
        )
        ends = self._ends()
        offsets = {handle.partition: entry for handle, entry in found.items()}
        return {
            number: ends[number] if offsets.get(number) is None else int(offsets[number].offset)
            for number in self.partitions
        }

    def _reachable(self, wanted: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, int]:
        """The wanted offsets, or the first ones there are where retention has deleted some.

        Raises:
            SourceError: Rows are deleted and that is not allowed, or an offset does not exist yet.
        """
        beginnings = self._beginnings(self.partitions)
        offsets = {}
        for number in self.partitions:
            offset = wanted.get(number, beginnings[number])
            if offset > ends[number]:
                raise SourceError(
                    f"partition {number} of {self._topic} ends at offset {ends[number]}, "
                    f"the wanted offset {offset} is not there"
                )
            gone = beginnings[number] - offset
            if gone > 0 and not self._allow_loss:
                raise SourceError(
                    f"partition {number} of {self._topic}: {gone} rows from offset {offset} on are "
                    "deleted already (retention); --allow_loss goes on without them"
                )
            offsets[number] = max(offset, beginnings[number])
        return offsets

    def _skip_deleted_rows(self) -> None:
        """Goes on behind rows that were deleted before they could be fetched, if that is allowed.

        What is held stays held; the next row fetched covers the deleted ones.
        """
        reached = {
            number: int(self._consumer.position(handle, timeout_ms=1_000))
            for number, handle in self._handles.items()
        }
        self._fetch_from(reached, self._ends())

    def _fetch_from(self, wanted: Mapping[int, int], ends: Mapping[int, int]) -> None:
        for number, offset in self._reachable(wanted, ends).items():
            self._consumer.seek(self._handles[number], offset)
            gone = offset - wanted.get(number, offset)
            if gone > 0:
                logger.warning("partition %d: %d rows are gone, going on", number, gone)

    def _bound_memory(self) -> None:
        """Pauses a partition that holds much, until it holds half of that."""
        limit = max(MAX_HELD_ROWS // len(self.partitions), 1)
        for number, queue in self._queues.items():
            if len(queue) >= limit and number not in self._paused:
                self._consumer.pause(self._handles[number])
                self._paused.add(number)
            elif len(queue) <= limit // 2 and number in self._paused:
                self._resume(number)

    def _resume(self, number: int) -> None:
        """Lets a partition be fetched again, once the broker has said how far it goes by now."""
        try:
            self._least_end.update(self._ends_at_once([number]))
        except KafkaError as error:
            logger.debug("partition %d stays paused: %s", number, error)
            return
        self._consumer.resume(self._handles[number])
        self._paused.discard(number)

    def _probe_broker(self) -> None:
        """A broker silent for a second may be idle or gone: ask it something once a second."""
        now = time.monotonic()
        if now - max(self._probed_at, self._heard_at) < PROBE_SECONDS:
            return
        self._probed_at = now
        try:
            self._ends_at_once(self.partitions)
            self._heard_at = time.monotonic()
        except KafkaError as error:
            silent = time.monotonic() - self._heard_at
            if silent >= self._reconnect_seconds:
                raise SourceError(
                    f"the broker at {self._servers} has been away for {silent:.0f} s"
                ) from None
            logger.warning("the broker is away for %.0f s: %s", silent, error)

    def _patiently(self, doing: str, request: Callable[[], T]) -> T:
        """Repeats a request that fails until it succeeds or reconnect_seconds are over."""
        give_up_at = time.monotonic() + self._reconnect_seconds
        while True:
            try:
                answer = request()
                self._heard_at = time.monotonic()
                return answer
            except KafkaError as error:
                if self._stopped() or time.monotonic() >= give_up_at:
                    raise SourceError(
                        f"{doing} of {self._topic} at {self._servers} failed, gave up: {error}"
                    ) from None
                logger.warning("%s failed, trying again: %s", doing, error)
                time.sleep(RETRY_SECONDS)
