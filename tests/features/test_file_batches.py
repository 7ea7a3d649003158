"""Batches of a file: whole, in order, and with the ids of a growing vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from examples.sample.rows import write_sample
from src.dictionaries.growing.growth import Growth
from src.dictionaries.growing.vocabulary import GrowthSettings
from src.features.feature_builder import FeatureBuilder
from src.features.file_batches import FileBatch, batches_of_file
from src.process.arrays import Array
from src.rows import row_file
from src.rows.parsing import parse_messages
from tests.features.made import make_dictionaries

ROWS = 23
BLOCK = 5
BATCH = 4
VOCAB_SIZE = 2000


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


def joined(batches: Sequence[FileBatch], name: str) -> Array:
    return np.concatenate([getattr(batch, name) for batch in batches])


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
            assert [(str(column.dtype), column.shape) for column in columns] == [
                ("int32", (BATCH, 39)),
                ("float32", (BATCH, 39)),
                ("float32", (BATCH, 1)),
                ("uint32", (BATCH,)),
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
