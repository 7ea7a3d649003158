"""The row parser: any bytes in, either a row or a named rejection out, never a shifted column."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from typing import Any, Optional, Union

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.rows.criteo import (
    CATEGORICAL_COLUMNS,
    CATEGORICAL_SIZE,
    COLUMNS,
    DENSE_COLUMNS,
    DENSE_SIZE,
    FIELD_SIZE,
    BadRow,
    ParsedRows,
    is_header,
)
from src.rows.json_wire import json_message, line_from_fields
from src.rows.parsing import parse_messages

Row = tuple[float, tuple[Optional[float], ...], tuple[Optional[str], ...]]
"""Label, dense values, categorical values."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
ALL_MISSING = b"0" + b"\t" * FIELD_SIZE
PLAIN = b"\t".join([b"1", *[b"7"] * DENSE_SIZE, *[b"ab"] * CATEGORICAL_SIZE])


def with_field(column: str, text: bytes) -> bytes:
    """The plain row with another text in one column."""
    fields = PLAIN.split(b"\t")
    fields[COLUMNS.index(column)] = text
    return b"\t".join(fields)


def json_with_field(column: str, text: str) -> bytes:
    """A row on the JSON wire with one field's JSON text replaced."""
    fields = ["1", *["7"] * DENSE_SIZE, *['"ab"'] * CATEGORICAL_SIZE]
    fields[COLUMNS.index(column)] = text
    return f"[{','.join(fields)}]".encode()


def rows_of(parsed: ParsedRows) -> list[Row]:
    dense = parsed.numbers
    categorical = parsed.categorical.astype(object).to_numpy()
    return [
        (
            float(label),
            tuple(None if math.isnan(value) else float(value) for value in dense[place]),
            tuple(
                value if isinstance(value, str) else None for value in categorical[place].tolist()
            ),
        )
        for place, label in enumerate(parsed.label)
    ]


def outcomes(
    values: list[Optional[bytes]], value_format: str = "tsv"
) -> list[Union[Row, tuple[str, str]]]:
    """What became of each message: its row, or (column, reason)."""
    parsed = parse_messages(values, value_format)
    found: dict[int, Union[Row, tuple[str, str]]] = {}
    for place, row in zip(parsed.index.tolist(), rows_of(parsed)):
        assert place not in found
        found[place] = row
    for bad in parsed.bad:
        assert bad.index not in found
        assert bad.column in (*COLUMNS, "row")
        assert bad.reason and "\n" not in bad.reason
        found[bad.index] = (bad.column, bad.reason)
    assert sorted(found) == list(range(len(values)))
    assert parsed.index.tolist() == sorted(parsed.index.tolist())
    return [found[place] for place in range(len(values))]


def only_fault(value: Optional[bytes], value_format: str = "tsv") -> BadRow:
    parsed = parse_messages([value], value_format)
    assert len(parsed.index) == len(parsed.label) == len(parsed.dense) == 0
    (bad,) = parsed.bad
    return bad


nasty_fields = st.one_of(
    st.binary(max_size=8),
    st.text(alphabet="0123456789-", max_size=22).map(str.encode),
    st.integers(-(2**65), 2**65).map(lambda number: str(number).encode()),
    st.sampled_from(
        [
            *(b"", b"0", b"1", b"-", b"--1", b"+1", b"-0", b"007", b" 1", b"1 ", b"0x10", b"1e3"),
            *(b"1.5", b"nan", b"NaN", b"null", b"inf", b"True", b"\xef\xbb\xbf1", b"\x00"),
            *(b'"', b'"a', b"a\\", b"\\t", b"'", b"#", b"\xff", b"\xed\xa0\x80", b"\xc0\x80"),
            *("١".encode(), "é".encode(), b"\r", b"\n", b"\t", b"1\r", b"\x0b", b"\x1c"),
            *(b"1" * 5000, b"0" * 5000 + b"1"),
        ]
    ),
)
nasty_lines = st.one_of(
    st.builds(with_field, st.sampled_from(COLUMNS), nasty_fields),
    st.lists(nasty_fields, min_size=38, max_size=42).map(b"\t".join),
    st.builds(
        lambda before, after: before + PLAIN + after,
        st.sampled_from([b"", b"\xef\xbb\xbf", b"\n", b"\t", b" ", b"\x00"]),
        st.sampled_from([b"", b"\n", b"\r\n", b"\t", b" ", b"\x00"]),
    ),
    st.binary(max_size=60),
)
dense_values = st.one_of(st.none(), st.integers(-5, 5), st.integers(INT64_MIN, INT64_MAX))
categorical_values = st.one_of(
    st.none(),
    st.sampled_from(["68fd1e64", '"', "\\N", "nan", "NULL", " ", "\x00", "\ufeff", "#", "0"]),
    st.text(st.characters(blacklist_characters="\t\r\n", blacklist_categories=("Cs",)), max_size=8),
)
known_fields = st.tuples(
    st.integers(0, 1),
    st.lists(dense_values, min_size=DENSE_SIZE, max_size=DENSE_SIZE),
    st.lists(categorical_values, min_size=CATEGORICAL_SIZE, max_size=CATEGORICAL_SIZE),
).map(lambda parts: [parts[0], *parts[1], *parts[2]])


def expected_row(fields: list[Any]) -> Row:
    dense = fields[1 : 1 + DENSE_SIZE]
    return (
        float(fields[0]),
        tuple(None if value is None else float(value) for value in dense),
        tuple(value or None for value in fields[1 + DENSE_SIZE :]),
    )


# --- tsv ------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), nasty_lines), max_size=6))
@example([])
@example([None])
@example([b"\xef\xbb\xbf" + PLAIN, PLAIN])
@example([with_field("I1", b"\t"), PLAIN[:-3]])  # tabs are right in sum, wrong in each line
@settings(max_examples=40)
def test_any_bytes_give_a_row_or_a_named_rejection_whatever_stands_beside_them(
    values: list[Optional[bytes]],
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


@given(st.lists(st.text(alphabet="0123456789-", max_size=22), min_size=1, max_size=5))
@example(["-", "--1", "1-", "-0", "007", "0" * 30 + "5", str(INT64_MIN), str(INT64_MAX)])
@example([str(INT64_MIN - 1)])
@example([str(INT64_MAX + 1)])
@settings(max_examples=40)
def test_a_dense_field_is_a_row_exactly_if_it_is_a_64_bit_integer(texts: list[str]) -> None:
    for text in texts:
        (found,) = outcomes([with_field("I5", text.encode())])
        digits = text[1:] if text.startswith("-") else text
        if text == "":
            assert found[1][4] is None
        elif digits.isdigit() and INT64_MIN <= int(text) <= INT64_MAX:
            assert found[1][4] == float(int(text))
        else:
            assert found[0] == "I5"


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


@pytest.mark.parametrize(
    ("value", "column", "reason"),
    [
        (None, "row", "tombstone"),
        (b"", "row", "1 fields, expected 40"),
        (PLAIN + b"\tx", "row", "41 fields, expected 40"),
        (PLAIN + b"\n", "row", "line break"),
        (PLAIN + b"\r", "row", "line break"),
        (with_field("label", b""), "label", "not 0 or 1"),
        (with_field("label", b"2"), "label", "not 0 or 1: b'2'"),
        (with_field("label", b"01"), "label", "not 0 or 1"),
        (with_field("label", b"-"), "label", "not 0 or 1"),
        (b"\xef\xbb\xbf" + PLAIN, "label", "not 0 or 1"),
        (with_field("I1", b"1.5"), "I1", "not a 64-bit integer: b'1.5'"),
        (with_field("I2", b"0x10"), "I2", "not a 64-bit integer"),
        (with_field("I3", b" 1"), "I3", "not a 64-bit integer"),
        (with_field("I13", b"9223372036854775808"), "I13", "not a 64-bit integer"),
        (with_field("C1", b"\xff"), "C1", r"not UTF-8: b'\xff'"),
        (with_field("C26", b"ok\xc0\x80"), "C26", "not UTF-8"),
    ],
)
def test_a_bad_row_is_named_by_column_and_reason(
    value: Optional[bytes], column: str, reason: str
) -> None:
    bad = only_fault(value)
    assert bad.column == column
    assert reason in bad.reason


def test_a_reason_shows_a_long_value_only_in_part() -> None:
    assert len(only_fault(b"x" * 100_000).reason) < 200


def test_one_bad_row_does_not_make_a_window_slow() -> None:
    values = [PLAIN] * 9_999 + [with_field("I1", b"x")]
    began = time.process_time()
    parsed = parse_messages(values)
    assert time.process_time() - began < 3  # it took 17 s when each field was cast by itself
    assert parsed.bad == [BadRow(9_999, "I1", "not a 64-bit integer: b'x'")]
    assert len(parsed.label) == 9_999


# --- fields → line --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("line", [b"label\tI1", b"LABEL\tI1", b" label \tI1"])
def test_a_header_is_recognised(line: bytes) -> None:
    assert is_header(line)
    assert not is_header(PLAIN)


# --- json -----------------------------------------------------------------------------------------

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


@given(st.lists(nasty_messages, max_size=5))
@example([b"[" * 100_000])
@settings(max_examples=40)
def test_any_json_gives_a_row_or_a_named_rejection_whatever_stands_beside_it(
    values: list[Optional[bytes]],
) -> None:
    together = outcomes(values, "json")
    alone = [outcomes([value], "json")[0] for value in values]
    assert together == alone


@given(st.lists(known_fields, max_size=3))
@settings(max_examples=40)
def test_a_line_means_the_same_on_either_wire(rows: list[list[Any]]) -> None:
    lines: list[Optional[bytes]] = [line_from_fields(fields) for fields in rows]
    messages: list[Optional[bytes]] = [json_message(line)[1] for line in lines if line is not None]
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
def test_a_bad_json_row_is_named(value: Optional[bytes], column: str, reason: str) -> None:
    bad = only_fault(value, "json")
    assert bad.column == column
    assert reason in bad.reason


def test_a_signal_that_the_program_handles_does_not_fail_a_read() -> None:
    code = (
        "import os, signal, threading\n"
        "from src.rows.parsing import parse_messages\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "lines = [b'\\t'.join([b'1', *[b'7'] * 39])] * 20_000\n"
        "done = threading.Event()\n"
        "def strike():\n"
        "    while not done.wait(0.001): os.kill(os.getpid(), signal.SIGTERM)\n"
        "threading.Thread(target=strike, daemon=True).start()\n"
        "print({len(parse_messages(lines).label) for _ in range(20)})\n"
        "done.set()\n"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.stdout == "{20000}\n", run.stderr
