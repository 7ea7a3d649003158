"""The bits of fields out of vocabulary, and the values sent to a trainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from src.dictionaries.oov import (
    UNLEARNABLE,
    bits_of_cells,
    count_oov,
    oov_bits,
    oov_cells,
    unknown_values_of_column,
)
from src.process.arrays import Array
from src.rows.criteo import FIELD_SIZE


def categorical_column(*values: Any) -> tuple[Array, pa.Array]:
    """Codes and distinct values."""
    column = pd.Categorical(values)
    return column.codes.astype(np.int32), pa.array(column.categories.tolist(), type=pa.string())


def test_each_categorical_field_out_of_vocabulary_has_its_own_bit_and_dense_ids_have_none() -> None:
    oov_ids = np.arange(100, 126, dtype=np.int32)
    ids = np.full((4, FIELD_SIZE), 7, dtype=np.int32)
    ids[1, 13:] = oov_ids
    ids[2, [13, 38]] = [100, 125]
    ids[3, :13] = 100
    ids[3, 14] = 100  # C2 holding the id that stands for another column's unknown values
    bits = oov_bits(ids, oov_ids)
    assert bits.dtype == np.uint32
    assert bits.tolist() == [0, 2**26 - 1, 1 + 2**25, 0]
    assert count_oov(bits).tolist() == [2, *[1] * 24, 2]


def test_no_rows_have_no_fields_out_of_vocabulary() -> None:
    bits = oov_bits(np.empty((0, FIELD_SIZE), np.int32), np.arange(26, dtype=np.int32))
    assert bits.shape == (0,)
    assert count_oov(bits).tolist() == [0] * 26


def test_the_oov_bits_can_be_taken_apart_and_put_together() -> None:
    bits = np.array([0, 1, 1 << 25, 0b101], dtype=np.uint32)
    cells = oov_cells(bits)
    assert np.argwhere(cells).tolist() == [[1, 0], [2, 25], [3, 0], [3, 2]]
    assert bits_of_cells(cells).tolist() == bits.tolist()


def test_only_values_out_of_vocabulary_are_sent_and_missing_ones_are_empty() -> None:
    column = categorical_column("ab", "known", None, "ab", "ü")
    sent = unknown_values_of_column(*column, np.array([True, False, True, True, True]))
    assert sent.tolist() == [b"ab", b"", b"", b"ab", "ü".encode()]


def test_a_value_that_fixed_width_would_change_is_sent_as_unlearnable() -> None:
    column = categorical_column("a" * 64, "a" * 65, "a\0")
    sent = unknown_values_of_column(*column, np.ones(3, dtype=bool))
    assert sent.tolist() == [b"a" * 64, UNLEARNABLE, UNLEARNABLE]


def test_a_column_without_unknown_values_sends_none() -> None:
    sent = unknown_values_of_column(*categorical_column("a", "b"), np.zeros(2, dtype=bool))
    assert sent.tolist() == [b"", b""]
