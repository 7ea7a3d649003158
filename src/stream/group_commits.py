"""What the consumer group has committed: the position of the stream, and the trainer's session."""

from __future__ import annotations

import logging
from typing import Any, Callable

from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from src.cluster.broker import REQUEST_MS, BrokerConnection
from src.stream.position import Commit

logger = logging.getLogger(__name__)


class GroupCommits:
    """Reads and writes the group's commit.

    Args:
        broker: The connection.
    """

    def __init__(self, broker: BrokerConnection) -> None:
        self._broker = broker

    def read(self) -> Commit | None:
        """The last commit, or None where there is none.

        Raises:
            SourceError: The broker stayed away.
        """
        found = {
            number: self._broker.request("reading the committed position", self._ask(handle))
            for number, handle in self._broker.handles.items()
        }
        known = {number: entry for number, entry in found.items() if entry is not None}
        if not known:
            return None
        # A partition added since the last commit starts at its very first row. Retention may have
        # taken that one: then it is lost, and not passed over.
        offsets = {number: int(known[number].offset) if number in known else 0 for number in found}
        return Commit.from_offsets(
            offsets, {number: entry.metadata for number, entry in known.items()}
        )

    def write(self, commit: Commit) -> None:
        """Commits a position with its session, for all partitions at once.

        Raises:
            SourceError: The broker stayed away.
        """
        self._broker.request("committing the position", lambda: self._write_once(commit))

    def try_write(self, commit: Commit) -> bool:
        """Commits once and returns whether it worked: a later commit makes up for a lost one."""
        try:
            self._write_once(commit)
        except KafkaError as error:
            logger.warning("position %s is not committed: %s", commit.position, error)
            return False
        return True

    def _ask(self, handle: TopicPartition) -> Callable[[], Any]:
        consumer = self._broker.consumer
        return lambda: consumer.committed(handle, metadata=True, timeout_ms=REQUEST_MS)

    def _write_once(self, commit: Commit) -> None:
        reached = commit.position.reached
        # Also partitions that the position does not know yet: what an earlier session has
        # committed for them holds no more.
        offsets = {
            handle: OffsetAndMetadata(reached.get(number, 0), commit.metadata(number), -1)
            for number, handle in self._broker.handles.items()
        }
        self._broker.consumer.commit(offsets, timeout_ms=REQUEST_MS)
