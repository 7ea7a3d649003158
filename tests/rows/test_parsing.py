"""The row parser: any bytes in, either a row or a named rejection out, never a shifted column."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.rows.criteo import CATEGORICAL_COLUMNS, DENSE_COLUMNS, BadRow
from src.rows.json_wire import line_from_fields
from src.rows.parsing import parse_messages
from tests.rows.messages import (
    ALL_MISSING,
    PLAIN,
    expected_row,
    known_fields,
    nasty_lines,
    outcomes,
    with_field,
)


@given(st.lists(st.one_of(st.none(), nasty_lines), max_size=6))
@example([])
@example([None])
@example([b"\xef\xbb\xbf" + PLAIN, PLAIN])
@example([with_field("I1", b"\t"), PLAIN[:-3]])  # tabs are right in sum, wrong in each line
@settings(max_examples=40)
def test_any_bytes_give_a_row_or_a_named_rejection_whatever_stands_beside_them(
    values: list[bytes | None],
) -> None:
    together = outcomes(values)
    alone = [outcomes([value])[0] for value in values]
    assert together == alone


@given(known_fields, st.lists(nasty_lines, max_size=3), st.lists(nasty_lines, max_size=3))
@settings(max_examples=40)
def test_known_fields_come_back_in_their_columns_whatever_stands_beside_them(
    fields: list[Any], before: list[bytes], after: list[bytes]
) -> None:
    found = outcomes([*before, line_from_fields(fields), *after])
    assert found[len(before)] == expected_row(fields)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_one_line_end_at_the_end_of_a_message_is_no_part_of_its_last_field(end: bytes) -> None:
    wanted = outcomes([PLAIN, ALL_MISSING])
    assert outcomes([PLAIN + end, ALL_MISSING + end]) == wanted
    assert outcomes([PLAIN, ALL_MISSING + end]) == wanted
    assert outcomes([b"bad" + end, PLAIN + end])[1] == wanted[0]


def test_parsed_columns_have_the_documented_types_and_names() -> None:
    for values in ([], [PLAIN, ALL_MISSING], [b"bad"], [PLAIN, b"bad"]):
        parsed = parse_messages(values)
        rows = sum(value != b"bad" for value in values)
        assert (parsed.index.dtype, parsed.label.dtype) == (np.int64, np.float32)  # type: ignore[comparison-overlap]
        assert parsed.dense.shape == (rows, 13)
        assert parsed.categorical.shape == (rows, 26)
        assert list(parsed.dense.columns) == list(DENSE_COLUMNS)
        assert list(parsed.categorical.columns) == list(CATEGORICAL_COLUMNS)
        assert set(parsed.dense.dtypes) == {np.dtype(np.float64)}
        assert all(kind.name == "category" for kind in parsed.categorical.dtypes)


def test_a_row_with_every_field_missing_is_a_row() -> None:
    parsed = parse_messages([ALL_MISSING])
    assert np.isnan(parsed.numbers).all()
    assert all((parsed.categorical[column].cat.codes == -1).all() for column in CATEGORICAL_COLUMNS)


def test_one_bad_row_does_not_make_a_window_slow() -> None:
    values = [PLAIN] * 9_999 + [with_field("I1", b"x")]
    began = time.process_time()
    parsed = parse_messages(values)
    assert time.process_time() - began < 3  # it took 17 s when each field was cast by itself
    assert parsed.bad == [BadRow(9_999, "I1", "not a 64-bit integer: b'x'")]
    assert len(parsed.label) == 9_999
