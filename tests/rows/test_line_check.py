"""Which lines are rows, and the faults named in the others."""

from __future__ import annotations

import contextlib
from itertools import product

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.rows.arrow_csv import read_lines
from src.rows.line_check import READ_IN_NUMBERS, line_fault, may_be_read
from tests.rows.messages import INT64_MAX, INT64_MIN, PLAIN, only_fault, outcomes, with_field


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


@pytest.mark.parametrize(
    ("value", "column", "reason"),
    [
        (None, "row", "tombstone"),
        (b"", "row", "1 fields, expected 40"),
        (PLAIN + b"\tx", "row", "41 fields, expected 40"),
        (PLAIN + b"\n\n", "row", "line break"),
        (PLAIN + b"\r\r\n", "row", "line break"),
        (b"\n", "row", "1 fields, expected 40"),
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
    value: bytes | None, column: str, reason: str
) -> None:
    bad = only_fault(value)
    assert bad.column == column
    assert reason in bad.reason


def test_the_reader_takes_nothing_foreign_for_a_number_but_what_the_check_knows() -> None:
    for character in (bytes([byte]) for byte in range(256)):
        if character in READ_IN_NUMBERS or character in b"0123456789\n\r":
            continue
        fields = {character, character + b"5", b"5" + character, b"0" + character + b"5"}
        for field, column in product(fields - {b"-5"}, ("label", "I1", "I13")):
            with pytest.raises(pa.ArrowInvalid):
                read_lines(with_field(column, field) + b"\n")


@given(
    st.lists(
        st.one_of(
            st.just(PLAIN),
            st.builds(
                with_field,
                st.sampled_from(["label", "I1", "I7", "I13", "C1", "C26"]),
                st.text(alphabet="01x X-\t+.\0é", max_size=4).map(str.encode),
            ),
        ),
        max_size=4,
    )
)
def test_lines_that_may_be_read_and_can_be_are_rows(lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    is_read = may_be_read(data, len(lines))
    with contextlib.suppress(pa.ArrowInvalid):
        read_lines(data)
        assert not is_read or all(line_fault(line) is None for line in lines)


def test_a_reason_shows_a_long_value_only_in_part() -> None:
    assert len(only_fault(b"x" * 100_000).reason) < 200
