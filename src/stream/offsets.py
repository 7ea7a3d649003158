"""Where the partitions of a topic begin and end, and where reading may start."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Callable

from src.cluster.broker import REQUEST_MS, BrokerConnection, SourceError

logger = logging.getLogger(__name__)


class TopicOffsets:
    """The offsets that the broker holds of a topic.

    Args:
        broker: The connection.
        allow_loss: Where retention has deleted the wanted row, start at the first row there is.
    """

    def __init__(self, broker: BrokerConnection, allow_loss: bool) -> None:
        self._broker = broker
        self._allow_loss = allow_loss

    def beginnings(self, numbers: Iterable[int]) -> dict[int, int]:
        """The first offset of some partitions.

        Raises:
            SourceError: The broker stayed away.
        """
        return self._request(numbers, self._broker.consumer.beginning_offsets)

    def ends(self) -> dict[int, int]:
        """The offset after the last row of every partition.

        Raises:
            SourceError: The broker stayed away.
        """
        return self._request(self._broker.handles, self._broker.consumer.end_offsets)

    def of_start(self, start: str) -> dict[int, int]:
        """The offsets that a value of --start names, "committed" excepted.

        Args:
            start: "earliest", "latest", an ISO time such as 2026-11-24T10:00:00 (UTC where it
                names no time zone), or "partition:offset,...". A partition that is not named
                starts at its beginning.

        Raises:
            SourceError: ``start`` can't be read, or the broker stayed away.
        """
        if start == "earliest":
            return self.beginnings(self._broker.handles)
        if start == "latest":
            return self.ends()
        if ":" in start and "-" not in start:
            return {**self.beginnings(self._broker.handles), **self._named_offsets(start)}
        return self._offsets_at(start)

    def reachable(self, wanted: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, int]:
        """The wanted offsets, or later ones where retention has deleted rows.

        Args:
            wanted: Partition → offset; a partition that is missing starts at 0.
            ends: The end of every partition.

        Raises:
            SourceError: Rows are deleted and that is not allowed, or an offset does not exist yet.
        """
        beginnings = self.beginnings(self._broker.handles)
        offsets = {}
        for number in self._broker.handles:
            offset = wanted.get(number, 0)
            if offset > ends[number]:
                raise SourceError(
                    f"partition {number} of {self._broker.topic} ends at offset {ends[number]}, "
                    f"the wanted offset {offset} is not there"
                )
            gone = beginnings[number] - offset
            if gone > 0 and not self._allow_loss:
                raise SourceError(
                    f"partition {number} of {self._broker.topic}: {gone} rows from offset "
                    f"{offset} on are deleted already (retention); --allow_loss goes on without "
                    "them"
                )
            offsets[number] = max(offset, beginnings[number])
        return offsets

    def _request(self, numbers: Iterable[int], ask: Callable[..., Any]) -> dict[int, int]:
        handles = [self._broker.handles[number] for number in numbers]
        if not handles:
            return {}
        found = self._broker.request(
            "asking for offsets", lambda: ask(handles, timeout_ms=REQUEST_MS)
        )
        return {handle.partition: int(offset) for handle, offset in found.items()}

    def _named_offsets(self, start: str) -> dict[int, int]:
        try:
            pairs = [part.split(":") for part in start.split(",")]
            offsets = {int(number): int(offset) for number, offset in pairs}
        except ValueError:
            raise SourceError(f"--start {start}: expected partition:offset,...") from None
        for number in offsets:
            if number not in self._broker.handles:
                raise SourceError(
                    f"--start {start}: {self._broker.topic} has no partition {number}"
                )
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
        milliseconds = int(moment.timestamp() * 1000)
        if milliseconds < 0:
            raise SourceError(f"--start {start}: Kafka's time begins in 1970")
        if milliseconds > time.time() * 1000:
            logger.warning(
                "--start %s lies in the future: all rows to come are read; without an offset, as "
                "+02:00, a time is UTC",
                start,
            )
        wanted = dict.fromkeys(self._broker.handles.values(), milliseconds)
        found = self._broker.request(
            "looking for the time",
            lambda: self._broker.consumer.offsets_for_times(wanted, timeout_ms=REQUEST_MS),
        )
        offsets = self.ends()  # where a partition has no row that late
        for handle, entry in found.items():
            if entry is not None:
                offsets[handle.partition] = int(entry.offset)
        return offsets
