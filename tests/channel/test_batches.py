"""Batches cut out of windows: their rows, what they cover, and the rows left over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.channel.batches import (
    BATCHES_AT_ONCE,
    FILLER_LABEL,
    ROWS_AT_ONCE,
    BatchCutter,
    filled_up,
)
from src.channel.window import Provenance, make_window, window_dtype
from src.process.arrays import Array
from src.rows.criteo import FIELD_SIZE
from src.stream.position import Position, RowRange, advance

TYPES = {"id": np.int32, "weight": np.float32, "label": np.float32, "oov": np.uint32}


def numbered_window(rows: Array, partition: Array, num_shards: int = 1) -> Array:
    """Rows with their number in every field; the offset is the number."""
    fields = np.repeat(rows[:, None], FIELD_SIZE, axis=1)
    return make_window(
        fields.astype(np.int32),
        (fields / 2).astype(np.float32),
        (rows % 2).astype(np.float32),
        Provenance(partition.astype(np.int32), rows, rows, 1_000 - rows),
        num_shards,
        session=1,
        dictionaries=2,
        oov=(3 * rows).astype(np.uint32),
    )


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.integers(1, 9),
    st.lists(st.integers(0, 3), min_size=1, max_size=96),
)
def test_the_batches_are_the_stream_whatever_the_windows(
    window_sizes: list[int], batch_size: int, partitions: list[int]
) -> None:
    partition = np.resize(partitions, sum(window_sizes))
    cutter = BatchCutter(batch_size, Position({}))
    batches = []
    for end, size in zip(np.cumsum(window_sizes).tolist(), window_sizes):
        rows = np.arange(end - size, end)
        cutter.add(numbered_window(rows, partition[rows]))
        batches += cutter.cut()
        assert cutter.rows == end % batch_size
    assert len(batches) == sum(window_sizes) // batch_size
    position = Position({})
    for number, batch in enumerate(batches):
        rows = np.arange(number * batch_size, (number + 1) * batch_size)
        position = advance(position, partition[rows], rows)
        assert batch.position == position
        assert batch.newest_timestamp == 1_000 - rows[0]
        assert batch.ranges == [
            RowRange(part, int(here[0]), int(here[-1]), len(here))
            for part in np.unique(partition[rows]).tolist()
            for here in [rows[partition[rows] == part]]
        ]
        assert {name: batch.columns[name].dtype for name in TYPES} == TYPES
        assert batch.columns["id"].tolist() == [[row] * FIELD_SIZE for row in rows.tolist()]
        assert batch.columns["weight"].tolist() == [[row / 2] * FIELD_SIZE for row in rows.tolist()]
        assert batch.columns["label"].tolist() == (rows % 2).tolist()
        assert batch.columns["oov"].tolist() == (3 * rows).tolist()


@pytest.mark.parametrize(
    "batch_size, most",
    [(100, 10), (400, BATCHES_AT_ONCE), (ROWS_AT_ONCE, BATCHES_AT_ONCE), (3_000, BATCHES_AT_ONCE)],
)
def test_one_cut_takes_no_more_than_some_rows_or_some_batches(batch_size: int, most: int) -> None:
    rows = np.arange(15_500)
    cutter = BatchCutter(batch_size, Position({}))
    cutter.add(numbered_window(rows[:2_300], np.zeros(2_300)))
    cutter.add(numbered_window(rows[2_300:], np.zeros(len(rows) - 2_300)))
    taken = 0
    while cutter.rows >= batch_size:
        whole = cutter.rows // batch_size
        batches = cutter.cut()
        assert len(batches) == min(most, whole)
        for batch in batches:
            assert batch.columns["id"][:, 0].tolist() == rows[taken : taken + batch_size].tolist()
            taken += batch_size
            assert batch.position == Position({0: taken}, last_partition=0)
    assert cutter.cut() == []
    assert cutter.rows == len(rows) - taken


def test_a_batch_covers_the_rows_of_all_shards() -> None:
    window = numbered_window(np.arange(12), np.arange(12) % 2, num_shards=2)
    cutter = BatchCutter(3, Position({0: 0, 1: 0}))
    cutter.add(window[:6])  # the first shard's
    first, second = cutter.cut()
    assert first.columns["id"][:, 0].tolist() == [0, 2, 4]
    assert first.ranges == [RowRange(0, 0, 4, 3), RowRange(1, 1, 5, 3)]
    assert first.position == Position({0: 5, 1: 6}, last_partition=1)
    assert second.columns["id"][:, 0].tolist() == [6, 8, 10]
    assert second.position == Position({0: 11, 1: 12}, last_partition=1)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.data())
def test_rows_cut_before_a_batch_is_full_leave_no_gap(
    window_sizes: list[int], data: st.DataObject
) -> None:
    partition = np.arange(sum(window_sizes)) % 3 // 2
    cutter = BatchCutter(5, Position({0: 0, 1: 0}))
    batches = []
    for end, size in zip(np.cumsum(window_sizes).tolist(), window_sizes):
        cutter.add(numbered_window(np.arange(end - size, end), partition[end - size : end]))
        batches += cutter.cut()
        if cutter.rows and data.draw(st.booleans()):
            part = data.draw(st.integers(1, cutter.rows))
            batches.append(cutter.cut_part(part))
            assert len(batches[-1].columns["label"]) == part
    position, begin = Position({0: 0, 1: 0}), 0
    for batch in batches:
        rows = np.arange(begin, begin + len(batch.columns["label"]))
        begin += len(rows)
        assert batch.columns["id"][:, 0].tolist() == rows.tolist()
        position = advance(position, partition[rows], rows)
        assert batch.position == position
        assert sum(covered.rows for covered in batch.ranges) == len(rows)
        assert batch.newest_timestamp == 1_000 - rows[0]
    assert begin + cutter.rows == sum(window_sizes)


def test_what_is_left_of_a_window_is_as_old_as_the_window() -> None:
    cutter = BatchCutter(4, Position({}))
    cutter.add(numbered_window(np.arange(3), np.zeros(3)), came_at=7.0)
    cutter.add(numbered_window(np.arange(3, 6), np.zeros(3)), came_at=9.0)
    assert cutter.oldest_since == 7.0
    cutter.cut()
    assert cutter.oldest_since == 9.0
    cutter.cut_part(1)
    assert (cutter.rows, cutter.oldest_since) == (1, 9.0)


def test_fillers_repeat_the_rows_of_their_batch_and_are_marked() -> None:
    ids = np.arange(6, dtype=np.int32).reshape(3, 2)
    weight, label = ids / 2, np.array([[1.0], [0.0], [1.0]], np.float32)
    filled = filled_up([ids, weight, label, ids + 10], 7)
    assert [part[:, 0].tolist() for part in filled] == [
        [0, 2, 4, 0, 2, 4, 0],
        [0, 1, 2, 0, 1, 2, 0],
        [1, 0, 1, *[FILLER_LABEL] * 4],
        [10, 12, 14, 10, 12, 14, 10],
    ]
    assert [part.dtype for part in filled] == [np.int32, np.float64, np.float32, np.int32]
    assert label.ravel().tolist() == [1, 0, 1], "the rows' own labels stay"


def test_a_full_batch_is_passed_on_as_it_is() -> None:
    parts = [np.zeros((3, 2)), np.ones((3, 2)), np.ones((3, 1))]
    assert all(one is other for one, other in zip(filled_up(parts, 3), parts))


def test_columns_lie_in_one_piece_and_hold_nothing_of_the_window() -> None:
    window = numbered_window(np.arange(8), np.zeros(8))
    cutter = BatchCutter(4, Position({}))
    cutter.add(window)
    for batch in cutter.cut():
        for column in batch.columns.values():
            assert column.flags.c_contiguous
            assert not np.shares_memory(column, window)


def test_rows_of_windows_with_values_of_different_widths_are_joined_whole() -> None:
    narrow, wide = np.zeros(3, window_dtype(1, 8)), np.zeros(2, window_dtype(1, 24))
    narrow["value"][:, 4], wide["value"][:, 4] = b"eight888", b"twenty-four bytes and no"
    narrow["offset"][:, 0], wide["offset"][:, 0] = [1, 2, 3], [4, 5]
    cutter = BatchCutter(5, Position({}))
    cutter.add(narrow)
    cutter.add(wide)
    (both,) = (batch.columns for batch in cutter.cut())
    assert {name: column.dtype for name, column in both.items()} == {
        name: wide[name].dtype for name in both
    }
    assert both["offset"][:, 0].tolist() == [1, 2, 3, 4, 5]
    assert both["value"][:, 4].tolist() == [b"eight888"] * 3 + [b"twenty-four bytes and no"] * 2
