"""The column functions against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.criteo import CATEGORICAL_COLUMNS, DENSE_COLUMNS, FIELD_SIZE, parse_messages
from src.dictionaries import Dictionaries
from src.features import (
    ColumnFunctions,
    assemble,
    count_oov,
    look_up_categorical_column,
    oov_bits,
    scale_dense_column,
)


def make_dictionaries(**tokens: int) -> Dictionaries:
    """I_j runs from −j to 9j; ids of the fixed tokens as the builder gives them."""
    names = [*DENSE_COLUMNS, *(f"OOV{column}" for column in CATEGORICAL_COLUMNS)]
    ids = {name: number for number, name in enumerate(names)}
    largest = {column: 9.0 * place for place, column in enumerate(DENSE_COLUMNS, start=1)}
    smallest = {column: -1.0 * place for place, column in enumerate(DENSE_COLUMNS, start=1)}
    return Dictionaries(largest, smallest, {**ids, **tokens})


def dense_column(*values: float) -> pd.Series:
    return pd.Series(np.array(values, dtype=np.float64), name="I1")


def categorical_column(*values: Any) -> pd.Series:
    return pd.Series(pd.Categorical(values), name="C1")


@pytest.mark.parametrize(
    ("value", "minimum", "maximum", "weight"),
    [
        (0, 0, 10, 0.0),
        (10, 0, 10, 1.0),
        (3, 0, 10, 0.3),
        (-3, -3, 5, 0.0),
        (1, -3, 5, 0.5),
        (-2, 0, 4, -0.5),  # below what the dictionary has seen
        (12, 0, 4, 3.0),  # above it
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
    assert scaled.name == "I1"
    pd.testing.assert_series_equal(column, before)


def test_known_unknown_and_missing_values_get_their_ids() -> None:
    column = categorical_column("b", "a", None, "unseen", "b")
    ids = look_up_categorical_column(column, {"a": 40, "b": 41}, oov_id=13)
    assert ids.dtype == np.int32
    assert ids.tolist() == [41, 40, 13, 13, 41]
    assert ids.name == "C1"


def test_a_missing_value_gets_the_id_of_the_empty_string_where_there_is_one() -> None:
    ids = look_up_categorical_column(categorical_column(None, "x"), {"": 50}, oov_id=13)
    assert ids.tolist() == [50, 13]


def test_a_column_without_any_value_is_out_of_vocabulary() -> None:
    assert look_up_categorical_column(categorical_column(None, None), {}, 13).tolist() == [13, 13]
    assert look_up_categorical_column(categorical_column(), {}, 13).tolist() == []


def test_categorical_columns_are_looked_up_by_the_builders_names_with_the_value() -> None:
    functions = ColumnFunctions(
        make_dictionaries(**{"C1_68fd1e64": 39, "C2_68fd1e64": 40, "C14_68fd1e64": 41})
    )
    line = b"\t".join([b"1", *[b""] * 13, *[b"68fd1e64"] * 26])
    ids = parse_messages([line]).categorical.apply(functions.look_up, axis=0).to_numpy()
    oov = {f"C{place}": 12 + place for place in range(1, 27)}
    assert oov["C1"] == 13
    known = {"C1": 39, "C2": 40, "C14": 41}
    assert ids.tolist() == [[known.get(column, oov[column]) for column in CATEGORICAL_COLUMNS]]


def test_a_value_known_to_another_column_only_is_unknown() -> None:
    functions = ColumnFunctions(make_dictionaries(C2_x=39))
    assert functions.look_up(categorical_column("x")).tolist() == [13]


def test_each_dense_column_is_scaled_by_its_own_bounds() -> None:
    functions = ColumnFunctions(make_dictionaries())
    line = b"\t".join([b"0", *[b"4"] * 13, *[b""] * 26])
    weights = parse_messages([line]).dense.apply(functions.scale, axis=0).to_numpy()
    expected = [(4 + place) / (10 * place) for place in range(1, 14)]
    np.testing.assert_array_equal(weights, np.array([expected], dtype=np.float32))


def test_assembled_fields_are_dense_first_and_categorical_fields_weigh_one() -> None:
    dense_weights = np.arange(26, dtype=np.float32).reshape(2, 13)
    categorical_ids = np.arange(100, 152, dtype=np.int32).reshape(2, 26)
    ids, weights = assemble(dense_weights, categorical_ids, np.arange(13, dtype=np.int32))
    assert (ids.dtype, weights.dtype) == (np.int32, np.float32)  # type: ignore[comparison-overlap]
    assert ids.tolist() == [[*range(13), *range(100, 126)], [*range(13), *range(126, 152)]]
    assert weights.tolist() == [[*range(13), *[1] * 26], [*range(13, 26), *[1] * 26]]


def test_no_rows_assemble_to_no_rows() -> None:
    ids, weights = assemble(
        np.empty((0, 13), np.float32), np.empty((0, 26), np.int32), np.arange(13, dtype=np.int32)
    )
    assert ids.shape == weights.shape == (0, 39)


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
