"""Files read without a stream: which lines become rows and batches, and what is said of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import pytest

from examples.sample.rows import write_sample
from src.dictionaries.growth import Growth
from src.dictionaries.vocabulary import GrowthSettings
from src.features import row_file
from src.features.feature_builder import FeatureBuilder
from src.features.row_file import (
    BLOCK_ROWS,
    NAMED_BAD_ROWS,
    FileBatch,
    RowFileError,
    batches_of_file,
    parsed_blocks,
)
from src.process.arrays import Array
from src.rows.criteo import COLUMNS, parse_messages
from tests.features.test_column_functions import make_dictionaries

ROWS = 23
BLOCK = 5
BATCH = 4
VOCAB_SIZE = 2000
HEADER = "\t".join(COLUMNS).encode()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_file, "BLOCK_ROWS", BLOCK)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    path = tmp_path_factory.mktemp("rows") / "rows.tsv"
    write_sample([path], ROWS)
    return path.read_bytes().splitlines()


@pytest.fixture(scope="module")
def features() -> FeatureBuilder:
    return FeatureBuilder(make_dictionaries(), "bucket", VOCAB_SIZE)


def file_of(folder: Path, lines: Sequence[bytes], end: bytes = b"\n") -> Path:
    path = folder / "clicks.tsv"
    path.write_bytes(b"".join(line + end for line in lines))
    return path


def rows_of(path: Path, skip: int = 0, limit: Optional[int] = None) -> tuple[list[int], Array]:
    """How many lines each block has read, and the dense columns of all rows."""
    blocks = list(parsed_blocks(path, skip, limit))
    dense = [rows.numbers for _, rows in blocks]
    return [read for read, _ in blocks], np.concatenate(dense) if dense else np.empty((0, 13))


def joined(batches: Sequence[FileBatch], name: str) -> Array:
    return np.concatenate([getattr(batch, name) for batch in batches])


class TestBlocks:
    def test_are_of_4096_lines_and_a_last_one_of_the_rest(self, tmp_path: Path) -> None:
        path = tmp_path / "clicks.tsv"
        write_sample([path], 2 * BLOCK_ROWS + 1)
        read, dense = rows_of(path)
        assert read == [4096, 4096, 1]
        wanted = parse_messages(path.read_bytes().splitlines()).numbers
        np.testing.assert_array_equal(dense, wanted)

    @pytest.mark.parametrize(
        ("skip", "limit", "read"),
        [
            (0, None, [5, 5, 5, 5, 3]),
            (7, None, [5, 5, 5, 1]),
            (0, 12, [5, 5, 2]),
            (7, 12, [5, 5, 2]),
            (20, 12, [3]),
            (0, 0, []),
            (ROWS, None, []),
        ],
    )
    def test_begin_behind_the_lines_left_out_and_end_at_the_limit(
        self,
        skip: int,
        limit: Optional[int],
        read: list[int],
        tmp_path: Path,
        lines: list[bytes],
        small_blocks: None,
    ) -> None:
        found, dense = rows_of(file_of(tmp_path, lines), skip, limit)
        assert found == read
        if read:
            wanted = parse_messages(lines[skip : skip + sum(read)]).numbers
            np.testing.assert_array_equal(dense, wanted)

    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_take_either_line_end_and_a_last_line_without_one(
        self, end: bytes, tmp_path: Path, lines: list[bytes]
    ) -> None:
        path = file_of(tmp_path, lines, end)
        path.write_bytes(path.read_bytes()[: -len(end)])
        ((read, rows),) = parsed_blocks(path)
        assert (read, list(rows.bad)) == (ROWS, [])
        last = parse_messages(lines).categorical.astype(object)["C26"]
        assert rows.categorical.astype(object)["C26"].equals(last)

    def test_there_are_none_of_an_empty_file(self, tmp_path: Path) -> None:
        assert list(parsed_blocks(file_of(tmp_path, []))) == []

    def test_header_is_refused_with_the_name_of_the_file(
        self, tmp_path: Path, lines: list[bytes]
    ) -> None:
        path = file_of(tmp_path, [HEADER, *lines])
        with pytest.raises(RowFileError) as refused:
            next(parsed_blocks(path))
        assert str(refused.value) == f"{path}: the first line is a header, none is wanted"
        assert sum(rows_of(path, skip=1)[0]) == ROWS

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere.tsv"):
            next(parsed_blocks(tmp_path / "nowhere.tsv"))


class TestBadRows:
    def test_are_named_with_file_line_column_and_reason(
        self,
        tmp_path: Path,
        lines: list[bytes],
        small_blocks: None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        bad = list(lines)
        bad[3] = b"2" + bad[3][1:]
        bad[11] = b"too\tshort"
        path = file_of(tmp_path, bad)
        blocks = list(parsed_blocks(path, skip=2))
        assert caplog.messages == [
            f"bad row: {path}:4, label: not 0 or 1: b'2'",
            f"bad row: {path}:12, row: 2 fields, expected 40: b'too\\tshort'",
        ]
        assert [len(rows.bad) for _, rows in blocks] == [1, 1, 0, 0, 0]
        assert sum(len(rows.label) for _, rows in blocks) == ROWS - 2 - 2

    def test_of_all_blocks_only_the_first_ten_are_named(
        self,
        tmp_path: Path,
        lines: list[bytes],
        small_blocks: None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        good = 3
        path = file_of(tmp_path, [*lines[:good], *[b"?"] * 17])
        assert sum(len(rows.bad) for _, rows in parsed_blocks(path)) == 17
        named = [message.split(",")[0] for message in caplog.messages]
        first = good + 1
        assert named == [f"bad row: {path}:{first + place}" for place in range(NAMED_BAD_ROWS)]


class TestBatches:
    def test_hold_the_rows_in_order_across_blocks_and_leave_out_what_fills_none(
        self, tmp_path: Path, lines: list[bytes], features: FeatureBuilder, small_blocks: None
    ) -> None:
        batches = list(batches_of_file(file_of(tmp_path, lines), features, BATCH))
        assert len(batches) == ROWS // BATCH
        rows = parse_messages(lines[: len(batches) * BATCH])
        ids, weights = features.build(rows)
        np.testing.assert_array_equal(joined(batches, "ids"), ids)
        np.testing.assert_array_equal(joined(batches, "weights"), weights)
        np.testing.assert_array_equal(joined(batches, "labels"), rows.label.reshape(-1, 1))
        np.testing.assert_array_equal(joined(batches, "oov"), features.oov(ids))
        for batch in batches:
            assert batch.change is None
            columns = (batch.ids, batch.weights, batch.labels, batch.oov)
            assert [str(column.dtype) for column in columns] == [
                *("int32", "float32", "float32", "uint32")
            ]
            assert [column.shape for column in columns] == [
                *((BATCH, 39), (BATCH, 39), (BATCH, 1), (BATCH,))
            ]

    def test_are_filled_up_with_the_next_row_where_one_is_bad(
        self, tmp_path: Path, lines: list[bytes], features: FeatureBuilder, small_blocks: None
    ) -> None:
        path = file_of(tmp_path, [*lines[:2], b"?", *lines[2:6], b"?", *lines[6:]])
        batches = list(batches_of_file(path, features, BATCH))
        ids, _ = features.build(parse_messages(lines))
        np.testing.assert_array_equal(joined(batches, "ids"), ids[: ROWS - ROWS % BATCH])

    def test_skip_and_limit_count_lines_the_bad_ones_among_them(
        self, tmp_path: Path, lines: list[bytes], features: FeatureBuilder, small_blocks: None
    ) -> None:
        path = file_of(tmp_path, [lines[0], b"?", *lines[1:5], b"?", *lines[5:]])
        batches = list(batches_of_file(path, features, BATCH, skip=1, limit=10))
        ids, _ = features.build(parse_messages(lines[1:9]))
        np.testing.assert_array_equal(joined(batches, "ids"), ids)

    def test_larger_than_a_block_are_put_together_of_several(
        self, tmp_path: Path, lines: list[bytes], features: FeatureBuilder, small_blocks: None
    ) -> None:
        (batch,) = batches_of_file(file_of(tmp_path, lines), features, 17)
        ids, _ = features.build(parse_messages(lines[:17]))
        np.testing.assert_array_equal(batch.ids, ids)

    def test_fewer_rows_than_a_batch_give_none(
        self, tmp_path: Path, lines: list[bytes], features: FeatureBuilder
    ) -> None:
        path = file_of(tmp_path, lines)
        assert list(batches_of_file(path, features, ROWS + 1)) == []
        assert len(list(batches_of_file(path, features, ROWS))) == 1

    def test_give_new_values_ids_batch_by_batch_in_the_order_of_the_rows(
        self, tmp_path: Path, lines: list[bytes], features: FeatureBuilder, small_blocks: None
    ) -> None:
        settings = GrowthSettings(admit_count=2, expire_rows=1000)
        growth, alone = Growth(settings, VOCAB_SIZE), Growth(settings, VOCAB_SIZE)
        repeated = [*lines, *lines]
        path = file_of(tmp_path, repeated)
        batches = list(batches_of_file(path, features, BATCH, growth))
        for number, batch in enumerate(batches):
            rows = parse_messages(repeated[number * BATCH : (number + 1) * BATCH])
            ids, _ = features.build(rows)
            values = features.unknown(rows, ids).values
            ids, oov, change = alone.grow(ids, features.oov(ids), values, features.free_ids)
            np.testing.assert_array_equal(batch.ids, ids)
            np.testing.assert_array_equal(batch.oov, oov)
            assert batch.change is not None
            growth.follow(batch.change, lambda ids: None)
            alone.follow(change, lambda ids: None)
        assert growth.dump() == alone.dump()
        assert len(growth) > 0
        assert joined(batches, "ids").max() >= features.free_ids[0]
