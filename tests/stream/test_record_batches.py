"""Record batches are read as kafka-python reads them; damaged ones lose no more than they must."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder

from src.stream import record_batches
from src.stream.fetches import UnreadableFetch, _Records
from src.stream.record_batches import (
    LEAST_TOGETHER,
    Record,
    Unreadable,
    read_batch,
    read_one_by_one,
    read_together,
)

HEADER = 61
HANDLE = TopicPartition("rows", 0)
Message = tuple["bytes | None", "bytes | None", list[tuple[str, bytes]]]

optional_bytes = st.none() | st.binary(max_size=200)
messages = st.lists(
    st.tuples(
        optional_bytes,
        optional_bytes,
        st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=9)), max_size=3),
    ),
    min_size=1,
    max_size=8,
)


def batch_of(rows: Sequence[Message], base: int = 0, codec: int = 0) -> bytes:
    """A batch as kafka-python's producer makes it, at an offset as the broker sets it."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 22)
    for number, (key, value, headers) in enumerate(rows):
        builder.append(number, 1_700_000_000_000 + number, key, value, headers)
    made = bytearray(builder.build())
    made[:8] = struct.pack(">q", base)
    return bytes(made)


def with_checksum(batch: bytes | bytearray) -> bytes:
    batch = bytes(batch)
    return batch[:17] + struct.pack(">I", crc32c(batch[21:])) + batch[21:]


def values(texts: Sequence[bytes]) -> list[Message]:
    return [(None, text, []) for text in texts]


def fetched(data: bytes, begin: int = 0) -> list[Record | Unreadable]:
    """What a consumer gets of a fetch's bytes."""
    records = _Records(begin, HANDLE, MemoryRecords(data))
    found: list[Record | Unreadable] = []
    while records:
        found += records.take(3)
    return found


@given(messages, st.integers(0, 2**40), st.integers(0, 4), st.integers(0, 8))
def test_every_part_of_a_record_is_read(
    rows: list[Message], base: int, codec: int, passed: int
) -> None:
    records = list(read_batch(DefaultRecordBatch(batch_of(rows, base, codec)), base + passed))
    assert [record.offset for record in records] == [
        base + number for number in range(passed, len(rows))
    ]
    for record, (key, value, headers) in zip(records, rows[passed:]):
        assert isinstance(record, Record)
        assert (record.key, record.value, record.headers) == (key, value, headers)
        assert record.timestamp == 1_700_000_000_000 + record.offset - base


def test_names_of_headers_that_are_not_utf8_and_null_values_are_read() -> None:
    batch = batch_of([(b"k", b"v", [("name", b""), ("two", b"2")])])
    batch = with_checksum(batch.replace(b"name\x00", b"\xffame\x01"))
    (record,) = fetched(batch)
    assert record.headers == [("\ufffdame", None), ("two", b"2")]
    assert Record(0, 0, None, None, b"\x08\x02").value is None
    with pytest.raises(ValueError, match="too early|does not fit"):
        _ = Record(0, 0, None, None, b"\x08\x02").headers


@pytest.mark.parametrize(("is_broker_time", "expected"), [(False, -1), (True, 1_700_000_000_001)])
def test_a_time_that_is_not_there_is_minus_one_unless_the_broker_gives_one(
    is_broker_time: bool, expected: int
) -> None:
    batch = bytearray(batch_of(values([b"one", b"two"])))
    batch[27:35] = struct.pack(">q", -(10**15))
    batch[22] |= 8 * is_broker_time
    assert [record.timestamp for record in fetched(with_checksum(batch))] == [expected] * 2


def test_messages_of_brokers_before_0_11_are_read_and_damaged_ones_named() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 16)
    builder.append(0, 1_700_000_000_000, b"key", b"first")
    builder.append(1, None, None, b"second")
    made = bytes(builder.build())
    first, second = fetched(made)
    assert (first.offset, first.key, first.value) == (0, b"key", b"first")
    assert (second.offset, second.value, second.headers) == (1, b"second", [])
    damaged, after = fetched(made.replace(b"first", b"fIrst"))
    assert isinstance(damaged, Unreadable) and damaged.offset == 0
    assert "checksum" in damaged.reason
    assert after == second


def change(place: int, *new: int) -> Callable[[bytearray], None]:
    def apply(batch: bytearray) -> None:
        batch[place : place + len(new)] = bytes(new)

    return apply


@pytest.mark.parametrize(
    ("damage", "offsets", "reason"),
    [
        (change(HEADER, 0x7F), [(10, 12)], "the length of a record is wrong"),
        (change(HEADER, 1), [(10, 12)], "the length of a record is wrong"),
        (change(HEADER + 3, 40), [(10, 10)], "its offset|does not fit"),
        (change(22, 1), [(10, 12)], "gzip can't decompress it"),
        (change(22, 4), [(10, 12)], "zstd can't decompress it"),
        (change(22, 7), [(10, 12)], "compression type 7 is unknown"),
        (change(60, 2), [(12, 12)], "bytes follow the last record"),
        (change(60, 9), [], ""),
    ],
)
def test_a_damaged_record_takes_its_place_and_the_others_are_read(
    damage: Callable[[bytearray], None], offsets: list[tuple[int, int]], reason: str
) -> None:
    batch = bytearray(batch_of(values([b"ten", b"eleven", b"twelve"]), 10))
    damage(batch)
    found = fetched(with_checksum(batch) + batch_of(values([b"after"]), 13), 10)
    bad = [record for record in found if isinstance(record, Unreadable)]
    assert [(record.first_offset, record.offset) for record in bad] == offsets
    for record in bad:
        assert record.raw
        assert re.search(reason, record.reason), record.reason
    assert found[-1].value == b"after"
    good = [record.offset for record in found if isinstance(record, Record)]
    covered = {one for first, last in offsets for one in range(first, last + 1)}
    assert sorted({*good, *covered}) == [10, 11, 12, 13]
    assert [record.offset for record in found] == sorted({record.offset for record in found})


def test_a_wrong_checksum_costs_its_batch_alone_even_if_it_claims_more() -> None:
    batch = bytearray(batch_of(values([b"ten", b"eleven"]), 10))
    batch[23:27] = struct.pack(">i", 500)
    following = batch_of(values([b"twelve"]), 12)
    first, second = fetched(bytes(batch) + following, 10)
    assert isinstance(first, Unreadable)
    assert (first.first_offset, first.offset) == (10, 11)
    assert second.value == b"twelve"


@settings(max_examples=300)
@given(st.data())
def test_records_read_together_are_those_read_one_by_one(data: st.DataObject) -> None:
    rows = data.draw(messages)
    spread = data.draw(st.sampled_from([1, 100, 1_000_000]))
    long = bytes(data.draw(st.sampled_from([0, 70, 9_000])))
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 22)
    for number, (key, value, headers) in enumerate(rows):
        stamp = 1_700_000_000_000 + number * spread
        builder.append(number, stamp, key, None if value is None else value + long, headers)
    made = bytearray(builder.build())
    places = st.integers(0, len(made) - 1)
    damaged = data.draw(st.lists(places, max_size=2))
    for place in damaged:
        made[place] = data.draw(st.integers(0, 255))
    made[16] = 2  # its format
    batch, records = DefaultRecordBatch(bytes(made)), bytes(made[HEADER:])
    together = read_together(batch, records)
    if together is not None:
        assert together == list(read_one_by_one(batch, records, batch.base_offset))
    assert damaged or together is not None


def test_large_batches_are_read_together() -> None:
    texts = [b"%d" % number * 30 for number in range(LEAST_TOGETHER)]
    batch = DefaultRecordBatch(batch_of(values(texts), base=7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_batches, "read_one_by_one", None)
        found = list(read_batch(batch, expected=9))
    assert [record.value for record in found] == texts[2:]
    assert [record.offset for record in found] == list(range(9, 7 + LEAST_TOGETHER))


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_damaged_offsets_go_up_and_nothing_else_is_raised(data: st.DataObject) -> None:
    first = bytearray(
        batch_of(values([b"zero", b"one", b"two"]), codec=data.draw(st.integers(0, 4)))
    )
    for place in data.draw(st.lists(st.integers(17, len(first) - 1), max_size=4)):
        first[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        first = bytearray(with_checksum(bytes(first)))
    try:
        found = fetched(bytes(first) + batch_of(values([b"three"]), 3))
    except UnreadableFetch:
        return
    offsets = [record.offset for record in found]
    assert offsets == sorted(set(offsets))
