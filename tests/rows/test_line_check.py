"""Which lines are rows, and the faults named in the others."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

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


def test_a_reason_shows_a_long_value_only_in_part() -> None:
    assert len(only_fault(b"x" * 100_000).reason) < 200
