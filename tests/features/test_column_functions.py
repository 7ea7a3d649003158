"""The column functions against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from src.dictionaries.dictionaries import Dictionaries
from src.features.column_functions import (
    bucket_dense_column,
    ids_of_codes,
    log_dense_column,
    look_up_values,
    scale_dense_column,
)
from src.process.arrays import Array
from tests.features.made import make_dictionaries


def dense_column(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def categorical_column(*values: Any) -> tuple[Array, pa.Array]:
    """Codes and distinct values."""
    column = pd.Categorical(values)
    return column.codes.astype(np.int32), pa.array(column.categories.tolist(), type=pa.string())


@pytest.mark.parametrize(
    ("value", "minimum", "maximum", "weight"),
    [
        (0, 0, 10, 0.0),
        (10, 0, 10, 1.0),
        (3, 0, 10, 0.3),
        (-3, -3, 5, 0.0),
        (1, -3, 5, 0.5),
        (-2, 0, 4, 0.0),  # below what the dictionary has seen
        (12, 0, 4, 1.0),  # above it
        (2.0**63, 0, 4, 1.0),
        (-(2.0**63), -3, 5, 0.0),
        (2.0**63, -(2.0**63), 2.0**63, 1.0),
        (np.nan, -3, 5, 0.0),
        (7, 7, 7, 0.0),
        (9, 7, 7, 0.0),
        (np.nan, 7, 7, 0.0),
        (0, 0, 0, 0.0),
    ],
)
def test_a_dense_value_is_scaled_by_its_columns_bounds(
    value: float, minimum: float, maximum: float, weight: float
) -> None:
    column = dense_column(value, value)
    before = column.copy()
    scaled = scale_dense_column(column, minimum, maximum)
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [np.float32(weight)] * 2
    np.testing.assert_array_equal(column, before)


def test_the_log_of_a_dense_column_keeps_the_sign_and_the_missing() -> None:
    logs = log_dense_column(dense_column(0, 1, -1, np.nan, 1e6))
    np.testing.assert_allclose(logs, [0, np.log(2), -np.log(2), np.nan, np.log(1e6 + 1)], rtol=1e-6)
    assert logs.dtype == np.float32


@pytest.mark.parametrize(
    ("value", "bucket"),
    [
        (np.nan, 0),
        (-1, 1),
        (-1e12, 1),
        (0, 2),
        (1, 4),  # 4 ln 2 = 2.77
        (2, 6),  # 4 ln 3 = 4.39
        (3, 7),  # 4 ln 4 = 5.55
        (1000, 29),  # 4 ln 1001 = 27.6
        (1e18, 63),
    ],
)
def test_dense_values_fall_into_log_spaced_buckets(value: float, bucket: int) -> None:
    buckets = bucket_dense_column(dense_column(value, value))
    assert buckets.tolist() == [bucket, bucket]
    assert buckets.dtype == np.int32


def ids_of_c1(made: Dictionaries, *values: Any) -> Array:
    """The ids of a column of values, missing ones among them."""
    codes, distinct = categorical_column(*values)
    return ids_of_codes(codes.astype(np.float64), look_up_values([distinct] * 26, made)[0])


def test_known_unknown_and_missing_values_get_their_ids() -> None:
    made = make_dictionaries(C1_a=40, C1_b=41, C2_unseen=42)
    ids = ids_of_c1(made, "b", "a", None, "unseen", "b")
    assert ids.dtype == np.int32
    assert ids.tolist() == [41, 40, 13, 13, 41]


def test_each_column_has_ids_of_its_own() -> None:
    made = make_dictionaries(C1_a=40, C1_b=41, C26_b=42)
    values = [pa.array(["b", "unseen", "a"]), *[pa.array([], type=pa.string())] * 24]
    ids = look_up_values([*values, pa.array(["a", "b"])], made)
    assert [column.dtype for column in ids] == [np.dtype(np.int32)] * 26
    assert ids[0].tolist() == [41, 13, 40, 13]
    assert ids[1].tolist() == [14]
    assert ids[25].tolist() == [38, 42, 38]


def test_a_missing_value_gets_the_id_of_the_empty_string_where_there_is_one() -> None:
    assert ids_of_c1(make_dictionaries(C1_=50), None, "x").tolist() == [50, 13]


def test_a_column_without_any_value_is_out_of_vocabulary() -> None:
    assert ids_of_c1(make_dictionaries(), None, None).tolist() == [13, 13]
    assert ids_of_c1(make_dictionaries()).tolist() == []
