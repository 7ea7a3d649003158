"""Reads Kafka's record batches: records one by one, and which of them can't be read.

kafka-python gives up a whole fetch at the first record that it can't read, and meets it again at
every attempt. It also refuses header names that are not UTF-8, and zstd batches above 1 MiB. Here a
record that can't be read takes its place among the others, with its bytes and the reason. The
length before each record leads to the next one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import zstandard
from kafka.codec import gzip_decode, lz4_decode, snappy_decode
from kafka.errors import UnsupportedCodecError
from kafka.record.util import decode_varint

Header = tuple[str, "bytes | None"]


class Record(NamedTuple):
    """A message as the topic holds it.

    Attributes:
        offset: Its offset.
        timestamp: ms since 1970; -1 where its producer gave none.
        key: Its key.
        value: Its value.
        header_bytes: Its headers as they came.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    header_bytes: bytes = b"\0"

    @property
    def headers(self) -> list[Header]:
        """Name and value of each header; bytes of a name that are not UTF-8 are replaced.

        Raises:
            ValueError: They can't be read.
        """
        try:
            return _read_headers(self.header_bytes)
        except IndexError:
            raise ValueError("the headers end too early") from None


class Unreadable(NamedTuple):
    """One or more messages that can't be read.

    Attributes:
        offset: The offset of the last of them.
        first_offset: That of the first.
        raw: Their bytes.
        reason: What is wrong, on one line.
    """

    offset: int
    first_offset: int
    raw: bytes
    reason: str
    timestamp: int = -1
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[Header, ...] = ()


def _zstd_decode(data: bytes) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True)
    with reader:
        return reader.read()


_CODECS: dict[int, tuple[str, Callable[[bytes], bytes]]] = {
    1: ("gzip", gzip_decode),
    2: ("snappy", snappy_decode),
    3: ("lz4", lz4_decode),
    4: ("zstd", _zstd_decode),
}
HEADER_BYTES = 61
"""Of a batch, before its records."""


def read_batch(batch: Any, expected: int) -> Iterator[Record | Unreadable]:
    """The records of a batch in offset order.

    Args:
        batch: kafka-python's batch, not read yet, whose checksum is right.
        expected: The first offset that is wanted; a batch may begin before it.

    Raises:
        UnsupportedCodecError: The library for its compression is not installed.
    """
    if batch.magic < 2:
        yield from _read_old_batch(batch, expected)
        return
    raw = bytes(batch._buffer)
    data = raw[HEADER_BYTES:]
    if batch.compression_type:
        name, decode = _CODECS.get(batch.compression_type, ("", None))
        if decode is None:
            reason = f"compression type {batch.compression_type} is unknown"
            yield whole_batch(batch, expected, reason)
            return
        batch._assert_has_codec(batch.compression_type)
        try:
            data = decode(data)
        except Exception as error:  # each library raises its own
            yield whole_batch(batch, expected, f"{name} can't decompress it: {one_line(error)}")
            return
    yield from _read_records(batch, data, expected)


def whole_batch(batch: Any, expected: int, reason: str) -> Unreadable:
    """All messages of a batch from ``expected`` on, as one that can't be read."""
    last = batch.last_offset if batch.magic >= 2 else batch.base_offset
    return Unreadable(max(last, expected), expected, bytes(batch._buffer), reason)


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _read_records(batch: Any, data: bytes, expected: int) -> Iterator[Record | Unreadable]:
    """The records in the decompressed part of a batch."""
    base, last_offset, first_timestamp = batch.base_offset, batch.last_offset, batch.first_timestamp
    broker_time = batch.max_timestamp if batch.timestamp_type else None
    place, next_offset = 0, base
    for _ in range(batch.records_count):
        try:
            length, begin = decode_varint(data, place)
            end = begin + length
            if length < 1 or end > len(data):
                raise ValueError(f"{length} bytes, but {len(data) - begin} follow")
        except (ValueError, IndexError) as error:
            # Nothing leads to the records after it.
            reason = f"the length of a record is wrong: {one_line(error)}"
            yield from _rest_of_batch(batch, max(next_offset, expected), data[place:], reason)
            return
        try:
            offset, time_delta, key, value, place = _read_fields(data, begin + 1, end)
            offset += base
            if not next_offset <= offset <= last_offset:
                raise ValueError(f"its offset {offset} is not from {next_offset} to {last_offset}")
        except (ValueError, IndexError) as error:
            offset = next_offset
            if offset >= expected:
                yield Unreadable(offset, offset, data[begin:end], one_line(error))
        else:
            if offset >= expected:
                stamp = first_timestamp + time_delta if broker_time is None else broker_time
                yield Record(offset, max(stamp, -1), key, value, data[place:end])
        place, next_offset = end, offset + 1
    if place != len(data):
        reason = f"{len(data) - place} bytes follow the last record of its batch"
        yield from _rest_of_batch(batch, max(next_offset, expected), data[place:], reason)


def _rest_of_batch(batch: Any, first: int, raw: bytes, reason: str) -> Iterator[Unreadable]:
    """The offsets of a batch from ``first`` on, if there are any left."""
    if first <= batch.last_offset:
        yield Unreadable(batch.last_offset, first, raw, reason)


def _read_fields(
    data: bytes, place: int, end: int
) -> tuple[int, int, bytes | None, bytes | None, int]:
    """(offset delta, timestamp delta, key, value, where the headers begin) of a record."""
    time_delta, place = decode_varint(data, place)
    offset_delta, place = decode_varint(data, place)
    key, place = _read_bytes(data, place, end)
    value, place = _read_bytes(data, place, end)
    return offset_delta, time_delta, key, value, place


def _read_bytes(data: bytes, place: int, end: int) -> tuple[bytes | None, int]:
    """Bytes with their length before them, and the place after them; None for a null."""
    length, place = decode_varint(data, place)
    if length < 0:
        return None, place
    if place + length > end:
        raise ValueError(f"a field of {length} bytes does not fit into its record")
    return data[place : place + length], place + length


def _read_headers(data: bytes) -> list[Header]:
    count, place = decode_varint(data)
    headers = []
    for _ in range(count):
        name, place = _read_bytes(data, place, len(data))
        value, place = _read_bytes(data, place, len(data))
        headers.append(((name or b"").decode(errors="replace"), value))
    return headers


def _read_old_batch(batch: Any, expected: int) -> Iterator[Record | Unreadable]:
    """The records of a batch as brokers before Kafka 0.11 wrote them."""
    reached = expected
    try:
        for old in batch:
            if not old.validate_crc():
                raise ValueError("its checksum differs")
            if old.offset >= expected:
                reached = old.offset + 1
                stamp = -1 if old.timestamp is None else old.timestamp
                yield Record(old.offset, stamp, old.key, old.value)
    except UnsupportedCodecError:
        raise
    except Exception as error:  # of a library for compression, too
        yield whole_batch(batch, reached, one_line(error))
