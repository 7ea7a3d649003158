"""Reads Kafka's record batches, and tells which of their records can't be read.

kafka-python gives up a whole fetch at the first record that it can't read, and meets it again at
every attempt. It also refuses header names that are not UTF-8, and zstd batches above 1 MiB. Here a
record that can't be read takes its place among the others, with its bytes and the reason. The
length before each record leads to the next one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import numpy as np
import zstandard
from kafka.codec import gzip_decode, lz4_decode, snappy_decode
from kafka.errors import UnsupportedCodecError
from kafka.record.util import decode_varint

from src.process.arrays import Array

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
LEAST_TOGETHER = 50
"""Records from which on array operations are faster."""
_MOST_SHIFT = 7 * 4
_USUAL = 1 << 62  # sums with numbers below it stay within 64 bits


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
    together = read_together(batch, data) if batch.records_count >= LEAST_TOGETHER else None
    if together is None:
        yield from read_one_by_one(batch, data, expected)
    else:
        yield from (record for record in together if record.offset >= expected)


def whole_batch(batch: Any, expected: int, reason: str) -> Unreadable:
    """All messages of a batch from ``expected`` on, as one that can't be read."""
    last = batch.last_offset if batch.magic >= 2 else batch.base_offset
    return Unreadable(max(last, expected), expected, bytes(batch._buffer), reason)


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def read_together(batch: Any, data: bytes) -> list[Record] | None:
    """All records of a batch by array operations.

    Args:
        batch: Its header.
        data: Its records, decompressed.

    Returns:
        None where any record is unusual. ``read_one_by_one`` knows whether it is wrong.
    """
    bounds = _bounds(data, batch.records_count)
    if bounds is None or max(batch.base_offset, abs(batch.first_timestamp)) > _USUAL:
        return None
    begin, end = bounds
    raw = np.frombuffer(data, dtype=np.uint8)
    try:
        time_delta, place = _numbers(raw, begin + 1)  # one byte of attributes comes first
        offset_delta, place = _numbers(raw, place)
        key_length, key_begin = _numbers(raw, place)
        key_end = key_begin + np.maximum(key_length, 0)
        value_length, value_begin = _numbers(raw, key_end)
    except (IndexError, ValueError):
        return None
    value_end = value_begin + np.maximum(value_length, 0)
    offsets = batch.base_offset + offset_delta
    is_ascending = offset_delta[0] >= 0 and (np.diff(offset_delta) > 0).all()
    if (value_end > end).any() or not is_ascending or offsets[-1] > batch.last_offset:
        return None
    stamps = batch.first_timestamp + time_delta
    if batch.timestamp_type:  # the broker's own time
        stamps = np.full(len(end), batch.max_timestamp)
    return list(
        map(
            Record,
            offsets.tolist(),
            np.maximum(stamps, -1).tolist(),
            _cut(data, key_begin, key_end, key_length < 0),
            _cut(data, value_begin, value_end, value_length < 0),
            _cut(data, value_end, end, np.zeros(len(end), dtype=bool)),
        )
    )


def _bounds(data: bytes, count: int) -> tuple[Array, Array] | None:
    """(first byte, end) of each record, int64[count]; None unless they fill the data exactly.

    Each record's length leads to the next one, so this alone goes through them one by one.
    """
    begins, ends, place = [], [], 0
    try:
        for _ in range(count):
            low, high = data[place], data[place + 1]
            if low < 0x80:
                length, place = low, place + 1
            elif high < 0x80:
                length, place = low & 0x7F | high << 7, place + 2
            else:
                length, place = decode_varint(data, place)
                length *= 2
            if length & 1 or length < 2:  # negative, or not even one byte
                return None
            begins.append(place)
            place += length >> 1
            ends.append(place)
    except (IndexError, ValueError):
        return None
    if not count or place != len(data):
        return None
    return np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64)


def _numbers(raw: Array, place: Array) -> tuple[Array, Array]:
    """The numbers that begin at some places, int64[n], and the places after them.

    Raises:
        IndexError: One begins or goes on behind the data.
        ValueError: One is longer than usual.
    """
    byte = raw[place].astype(np.int64)
    number, place, shift = byte & 0x7F, place + 1, 7
    goes_on = byte >= 0x80
    while goes_on.any():
        if shift > _MOST_SHIFT:
            raise ValueError("a number of more than five bytes")
        byte = np.where(goes_on, raw[np.where(goes_on, place, 0)], 0).astype(np.int64)
        number |= (byte & 0x7F) << shift
        place, shift, goes_on = place + goes_on, shift + 7, byte >= 0x80
    return (number >> 1) ^ -(number & 1), place


def _cut(data: bytes, begin: Array, end: Array, is_null: Array) -> list[Any]:
    """The bytes from each begin to its end, None where null."""
    if is_null.all():
        return [None] * len(begin)
    parts: list[bytes | None] = [
        data[first:last] for first, last in zip(begin.tolist(), end.tolist())
    ]
    for place in np.flatnonzero(is_null).tolist():
        parts[place] = None
    return parts


def read_one_by_one(batch: Any, data: bytes, expected: int) -> Iterator[Record | Unreadable]:
    """The records in the decompressed part of a batch, whatever is wrong with them."""
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
