"""What kafka-python's fetcher is taught: to pass unreadable records on, and the last stable offset.

Two parts of it are replaced, both in the object of one consumer:

* the reading of a fetch: a record that can't be read is returned as ``Unreadable`` in its place;
* the end that a fetch reports: with ``read_committed`` nothing beyond the last stable offset can be
  read, so that one is the end. kafka-python reports the high watermark, open transactions included.

Messages of aborted transactions, and the markers that end transactions, are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError

from src.stream.record_batches import Record, Unreadable, one_line, read_batch, whole_batch


class UnreadableFetch(KafkaError):  # type: ignore[misc]
    """A fetch as a whole can't be read, so that where its records end is not known.

    Attributes:
        partition: The partition.
        offset: The offset that was asked for.
        reason: What is wrong, on one line.
    """

    def __init__(self, partition: int, offset: int, reason: str) -> None:
        super().__init__(f"partition {partition}, offset {offset}: {reason}")
        self.partition = partition
        self.offset = offset
        self.reason = reason


class FetchWatch:
    """Teaches a consumer the above, and keeps what its fetches report.

    Args:
        consumer: A ``KafkaConsumer``.

    Attributes:
        held_back: Partition → how many offsets an open transaction holds back.
        refused: Whether the broker has refused a fetch: the topic may be gone, and another one may
            have its name. For the caller to reset.
    """

    def __init__(self, consumer: Any) -> None:
        self.held_back: dict[int, int] = {}
        self.refused = False
        self._fetcher = consumer._fetcher
        self._parse = self._fetcher._parse_fetched_data
        self._fetcher._parse_fetched_data = self._parse_and_note
        self._fetcher.PartitionRecords = _Records

    def _parse_and_note(self, completed: Any) -> Any:
        data, handle = completed.partition_data, completed.topic_partition
        self.refused |= bool(data.error_code)
        try:
            parsed = self._parse(completed)
        except CorruptRecordError:
            raise UnreadableFetch(
                handle.partition, completed.fetched_offset, "the broker can't read it"
            ) from None
        except KafkaError as error:
            if data.error_code:
                raise
            raise UnreadableFetch(
                handle.partition, completed.fetched_offset, one_line(error)
            ) from None
        stable = data.last_stable_offset
        if parsed is not None and stable is not None and stable >= 0:
            self._fetcher._subscriptions.assignment[handle].highwater = stable
            self.held_back[handle.partition] = data.high_watermark - stable
        return parsed


class _Records(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of one fetch."""

    next_fetch_offset: int
    bytes_read: int

    def _unpack_records(
        self, handle: Any, records: Any, *_deserializers: Any
    ) -> Iterator[Record | Unreadable]:
        """The records in offset order; called by kafka-python."""
        while True:
            try:
                batch = records.next_batch()
            except CorruptRecordError as error:
                raise UnreadableFetch(
                    handle.partition, self.next_fetch_offset, one_line(error)
                ) from None
            if batch is None:
                break
            expected = self.next_fetch_offset
            self.bytes_read += batch.size_in_bytes  # kafka-python takes turns by it
            if not batch.validate_crc():
                found = whole_batch(batch, expected, "the checksum of its batch differs")
                # The checksum covers the number of records too: don't go beyond the next batch.
                last = min(found.offset, _next_base(records, found.offset + 1) - 1)
                yield from self._passing(iter([found._replace(offset=max(last, expected))]))
                continue
            if batch.magic >= 2:
                self.leader_epoch = batch.leader_epoch
                if self._is_passed_over(batch):
                    self.next_fetch_offset = max(batch.next_offset, expected)
                    continue
            yield from self._passing(read_batch(batch, expected))
            if batch.magic >= 2:
                self.next_fetch_offset = max(batch.next_offset, self.next_fetch_offset)
        self.drain()

    def _passing(self, found: Iterator[Record | Unreadable]) -> Iterator[Record | Unreadable]:
        """The same records; the next fetch begins after the last one taken."""
        for record in found:
            self.next_fetch_offset = record.offset + 1
            yield record

    def _is_passed_over(self, batch: Any) -> bool:
        """Whether it is of an aborted transaction, or holds the marker of any transaction's end."""
        if batch.has_producer_id():
            # Also before a marker: what it ends may lie before the first offset fetched.
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


def _next_base(records: Any, default: int) -> int:
    """The first offset of the batch that follows in a fetch."""
    following = records._next_slice
    return default if following is None else int.from_bytes(following[:8], "big")
