"""Lines to JSON messages and back, and the faults of messages that no line can hold."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.rows.criteo import COLUMNS
from src.rows.json_wire import json_message, line_from_fields
from src.rows.parsing import parse_messages
from tests.rows.messages import (
    ALL_MISSING,
    dense_values,
    json_with_field,
    known_fields,
    only_fault,
    outcomes,
    with_field,
)

json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), dense_values
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
nasty_messages = st.one_of(
    st.none(),
    st.binary(max_size=40),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.lists(json_values, min_size=39, max_size=41).map(lambda value: json.dumps(value).encode()),
    st.builds(
        json_with_field,
        st.sampled_from(COLUMNS),
        st.one_of(
            json_values.map(json.dumps),
            st.sampled_from(["1e400", "-Infinity", "1e18", "1e300", "1E5", "", "01", '"\\ud800"']),
        ),
    ),
)


def test_a_line_holds_missing_and_whole_numbers_as_the_format_wants_them() -> None:
    fields = [1, None, math.nan, 3.0, -4, *[""] * 9, "ab", *[None] * 25]
    assert line_from_fields(fields) == b"1\t\t\t3\t-4" + b"\t" * 10 + b"ab" + b"\t" * 25


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("a\tb", "C26 holds a tab or a line break"),
        ("a\nb", "C26 holds a tab or a line break"),
        (True, "neither a string nor a finite number: True"),
        ([1], "neither a string nor a finite number"),
        (math.inf, "neither a string nor a finite number: inf"),
        ("\ud800", "surrogates"),
    ],
)
def test_fields_that_no_line_can_hold_are_refused(field: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        line_from_fields([0, *[None] * 38, field])
    with pytest.raises(ValueError, match="39 fields, expected 40"):
        line_from_fields([0, *[None] * 37, field])


@given(st.lists(nasty_messages, max_size=5))
@example([b"[" * 100_000])
@settings(max_examples=40)
def test_any_json_gives_a_row_or_a_named_rejection_whatever_stands_beside_it(
    values: list[bytes | None],
) -> None:
    together = outcomes(values, "json")
    alone = [outcomes([value], "json")[0] for value in values]
    assert together == alone


@given(st.lists(known_fields, max_size=3))
@settings(max_examples=40)
def test_a_line_means_the_same_on_either_wire(rows: list[list[Any]]) -> None:
    lines: list[bytes | None] = [line_from_fields(fields) for fields in rows]
    messages: list[bytes | None] = [json_message(line)[1] for line in lines if line is not None]
    assert outcomes(messages, "json") == outcomes(lines)


@pytest.mark.parametrize("text", [b"1.5", b"nan", b" 1", b"1_0", b"x", b"0x1", b"9" * 30])
def test_a_bad_number_is_named_the_same_on_either_wire(text: bytes) -> None:
    for column in ("label", "I1"):
        line = with_field(column, text)
        assert only_fault(json_message(line)[1], "json") == only_fault(line)


def test_the_json_wire_is_that_of_the_original_example() -> None:
    key, value = json_message(with_field("I2", b""))
    assert json.loads(key) == list(COLUMNS)
    fields = json.loads(value)
    assert fields[:2] == [1, 7.0]
    assert math.isnan(fields[2])
    assert json.loads(json_message(ALL_MISSING)[1])[14:] == [None] * 26


@pytest.mark.parametrize("text", ["NaN", "null", '""'])
def test_json_nan_and_null_are_missing(text: str) -> None:
    parsed = parse_messages([json_with_field("I1", text), json_with_field("C1", text)], "json")
    assert math.isnan(parsed.dense["I1"][0])
    assert parsed.categorical["C1"].cat.codes.tolist()[1] == -1


@pytest.mark.parametrize(
    ("value", "column", "reason"),
    [
        (None, "row", "tombstone"),
        (b"", "row", "Expecting value"),
        (b"\xff\xfe\xfd", "row", "can't decode"),
        (b"{}", "row", "not a JSON list"),
        (b"7", "row", "not a JSON list"),
        (b"null", "row", "not a JSON list"),
        (b"[1, 2]", "row", "2 fields, expected 40"),
        (b"[" * 100_000, "row", "recursion"),
        (json_with_field("I1", "[1]"), "row", "neither a string nor a finite number"),
        (json_with_field("I1", "true"), "row", "neither a string nor a finite number: True"),
        (json_with_field("I1", "Infinity"), "row", "neither a string nor a finite number: inf"),
        (json_with_field("C1", "1e400"), "row", "neither a string nor a finite number: inf"),
        (json_with_field("C1", '"a\\tb"'), "row", "C1 holds a tab"),
        (json_with_field("C1", '"\\ud800"'), "row", "surrogates not allowed"),
        (json_with_field("I1", "1.5"), "I1", "not a 64-bit integer: b'1.5'"),
        (json_with_field("I1", "1e300"), "I1", "not a 64-bit integer"),
        (json_with_field("label", "NaN"), "label", "not 0 or 1"),
        (json_with_field("label", "0.5"), "label", "not 0 or 1"),
    ],
)
def test_a_bad_json_row_is_named(value: bytes | None, column: str, reason: str) -> None:
    bad = only_fault(value, "json")
    assert bad.column == column
    assert reason in bad.reason
