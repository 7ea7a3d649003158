"""The column functions against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from src.dictionaries.dictionaries import Dictionaries, DictionaryError
from src.dictionaries.oov import (
    UNLEARNABLE,
    bits_of_cells,
    count_oov,
    oov_bits,
    oov_cells,
    unknown_values_of_column,
)
from src.features.column_functions import (
    BUCKETS,
    ColumnFunctions,
    DenseCoding,
    assemble,
    bucket_dense_column,
    log_dense_column,
    look_up_values,
    scale_dense_column,
)
from src.process.arrays import Array
from src.rows.criteo import (
    CATEGORICAL_COLUMNS,
    DENSE_COLUMNS,
    DENSE_SIZE,
    FIELD_SIZE,
    ParsedRows,
    parse_messages,
)


def make_dictionaries(**tokens: int) -> Dictionaries:
    """I_j runs from −j to 9j; ids of the fixed tokens as the builder gives them."""
    names = [*DENSE_COLUMNS, *(f"OOV{column}" for column in CATEGORICAL_COLUMNS)]
    ids = {name: number for number, name in enumerate(names)}
    largest = {column: 9.0 * place for place, column in enumerate(DENSE_COLUMNS, start=1)}
    smallest = {column: -1.0 * place for place, column in enumerate(DENSE_COLUMNS, start=1)}
    return Dictionaries(largest, smallest, {**ids, **tokens})


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
    np.testing.assert_array_equal(column, before)


def ids_of_c1(made: Dictionaries, *values: Any) -> Array:
    """The ids of a column of values, missing ones among them."""
    codes, distinct = categorical_column(*values)
    ids: Array = look_up_values([distinct] * 26, made)[0][codes]
    return ids


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


def test_categorical_columns_are_looked_up_by_the_builders_names_with_the_value() -> None:
    made = make_dictionaries(**{"C1_68fd1e64": 39, "C2_68fd1e64": 40, "C14_68fd1e64": 41})
    rows = parse_messages([b"\t".join([b"1", *[b""] * 13, *[b"68fd1e64"] * 26])])
    ids = fields_of(rows, made)[:, DENSE_SIZE:]
    oov = {f"C{place}": 12 + place for place in range(1, 27)}
    assert oov["C1"] == 13
    known = {"C1": 39, "C2": 40, "C14": 41}
    assert ids.tolist() == [[known.get(column, oov[column]) for column in CATEGORICAL_COLUMNS]]


def test_a_value_known_to_another_column_only_is_unknown() -> None:
    rows = parse_messages([b"\t".join([b"1", *[b""] * 13, b"x", *[b""] * 25])])
    assert fields_of(rows, make_dictionaries(C2_x=39))[0, DENSE_SIZE] == 13


def fields_of(rows: ParsedRows, made: Dictionaries) -> Array:
    """All columns after their functions."""
    functions = ColumnFunctions(DenseCoding("minmax", made, 0), made, rows)
    applied: Array = np.apply_along_axis(functions.column, 0, functions.columns())
    return applied[1:]


def coded(coding: DenseCoding, rows: ParsedRows) -> Array:
    """The dense columns after their functions."""
    return np.column_stack([coding.column(rows.numbers[:, place], place) for place in range(13)])


def test_each_dense_column_is_scaled_by_its_own_bounds() -> None:
    coding = DenseCoding("minmax", make_dictionaries(), 0)
    line = b"\t".join([b"0", *[b"4"] * 13, *[b""] * 26])
    weights = coded(coding, parse_messages([line]))
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


def test_the_oov_bits_can_be_taken_apart_and_put_together() -> None:
    bits = np.array([0, 1, 1 << 25, 0b101], dtype=np.uint32)
    cells = oov_cells(bits)
    assert np.argwhere(cells).tolist() == [[1, 0], [2, 25], [3, 0], [3, 2]]
    assert bits_of_cells(cells).tolist() == bits.tolist()


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


def dense_fields(transform: str, *lines: bytes) -> tuple[list[list[int]], list[list[float]]]:
    """Ids and weights of the dense fields of rows, with a vocabulary of 2000."""
    coding = DenseCoding(transform, make_dictionaries(), 2000)
    rows = parse_messages([b"1\t" + line + b"\t" * 26 for line in lines])
    ids, weights = coding.fields(coded(coding, rows))
    return np.broadcast_to(ids, weights.shape).tolist(), weights.tolist()


THREE = b"\t".join([b"3"] * 13)
MISSING = b"\t" * 12


def test_minmax_gives_each_dense_column_its_id_and_a_missing_value_no_weight() -> None:
    ids, weights = dense_fields("minmax", THREE, MISSING)
    assert ids == [list(range(13))] * 2
    assert weights[0][0] == pytest.approx(0.4)
    assert weights[1] == [0.0] * 13


def test_log_gives_a_missing_value_an_id_of_its_own_at_the_end_of_the_vocabulary() -> None:
    ids, weights = dense_fields("log", THREE, MISSING)
    assert ids == [list(range(13)), list(range(2000 - 13, 2000))]
    assert weights[0] == pytest.approx([np.log(4)] * 13)
    assert weights[1] == [1.0] * 13


def test_bucket_gives_every_bucket_of_every_column_an_id_at_the_end_of_the_vocabulary() -> None:
    ids, weights = dense_fields("bucket", THREE, MISSING)
    first = 2000 - 13 * BUCKETS
    assert ids == [[first + BUCKETS * place + bucket for place in range(13)] for bucket in (7, 0)]
    assert weights == [[1.0] * 13] * 2


@pytest.mark.parametrize(("transform", "reserved"), [("log", 13), ("bucket", 13 * BUCKETS)])
def test_a_vocabulary_without_room_for_the_transform_is_refused(
    transform: str, reserved: int
) -> None:
    DenseCoding(transform, make_dictionaries(), 39 + reserved)
    with pytest.raises(DictionaryError, match="need 39 ids; .* 38 of vocab_size"):
        DenseCoding(transform, make_dictionaries(), 38 + reserved)


def test_the_fingerprint_tells_transforms_and_vocabulary_sizes_apart() -> None:
    made = make_dictionaries()
    assert DenseCoding("minmax", made, 0).fingerprint == made.fingerprint
    others = [DenseCoding(name, made, size) for name in ("log", "bucket") for size in (2000, 3000)]
    assert len({made.fingerprint, *(coding.fingerprint for coding in others)}) == 5


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
