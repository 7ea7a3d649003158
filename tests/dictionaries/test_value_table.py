"""ValueTable against a dict, whatever the values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.dictionaries.value_table import ValueTable, keys_of

OTHERWISE = np.array([13, 14, 15], dtype=np.int32)
# Few letters and few lengths: many values are alike, and some are as long as a short one may be.
texts = st.text(st.sampled_from("aé€\0 0"), max_size=10)
columns_of_known_values = st.lists(
    st.lists(texts, unique=True, max_size=30), min_size=1, max_size=3
)


def table_of(columns: list[list[str]]) -> tuple[ValueTable, list[dict[str, int]]]:
    """A table, and what it holds by column; ids count up from 39."""
    ends = np.cumsum([39, *map(len, columns)])
    ids = [np.arange(begin, end, dtype=np.int32) for begin, end in zip(ends, ends[1:])]
    known = [dict(zip(column, numbers.tolist())) for column, numbers in zip(columns, ids)]
    return ValueTable([pa.array(column, pa.large_string()) for column in columns], ids), known


@given(columns_of_known_values, st.lists(texts, max_size=20))
def test_a_look_up_gives_what_a_dict_gives_for_each_column(
    columns: list[list[str]], others: list[str]
) -> None:
    table, known = table_of(columns)
    asked = [[value for column in columns for value in column] + others] * len(columns)
    found = table.look_up([pa.array(values, pa.string()) for values in asked], OTHERWISE)
    assert len(table) == sum(map(len, columns))
    assert len(found) == len(columns)
    for ids, values, id_by_value, otherwise in zip(found, asked, known, OTHERWISE.tolist()):
        assert ids.dtype == np.int32
        assert ids.tolist() == [id_by_value.get(value, otherwise) for value in values]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_slice_is_looked_up_as_what_it_is(kind: pa.DataType) -> None:
    values = pa.array(["aaaaaaaa", "bbbbbbbb", "cc", "dddddddd", "eeeeeeee"], type=kind)
    table = ValueTable([values], [np.arange(5, dtype=np.int32)])
    asked = [values.slice(3), values.slice(1, 3)]
    assert table.look_up(asked[:1], OTHERWISE)[0].tolist() == [3, 4]
    assert [ids.tolist() for ids in table.look_up(asked, OTHERWISE)] == [[3, 4], [14, 14, 14]]


def test_the_largest_id_of_32_bits_and_the_id_zero_are_found() -> None:
    ids = np.array([2**31 - 1, 0], dtype=np.int32)
    table = ValueTable([pa.array(["ffffffff", ""])], [ids])
    (found,) = table.look_up([pa.array(["", "ffffffff"])], OTHERWISE)
    assert found.tolist() == [0, 2**31 - 1]


def test_many_values_are_kept_apart_from_one_another_and_from_unknown_ones() -> None:
    values = [f"{number:08x}" for number in range(40_000)]
    table, _ = table_of([values[:20_000], values[10_000:30_000]])
    first, second = table.look_up([pa.array(values)] * 2, OTHERWISE)
    assert first.tolist() == [*range(39, 20_039), *[13] * 20_000]
    assert second.tolist() == [*[14] * 10_000, *range(20_039, 40_039), *[14] * 10_000]


def test_a_table_without_values_knows_none() -> None:
    nothing = pa.array([], pa.string())
    table = ValueTable([nothing], [np.empty(0, dtype=np.int32)])
    assert table.look_up([pa.array(["", "a"])], OTHERWISE)[0].tolist() == [13, 13]
    assert table.look_up([nothing, nothing], OTHERWISE)[1].tolist() == []


@given(st.lists(texts, unique=True))
def test_short_values_differ_in_their_keys(values: list[str]) -> None:
    keys, is_short = keys_of(pa.array(values, type=pa.string()))
    assert len(set(keys[is_short].tolist())) == np.count_nonzero(is_short)
    expected = [len(value.encode()) <= 8 and "\0" not in value for value in values]
    assert is_short.tolist() == expected
