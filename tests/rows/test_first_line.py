"""What a file's first line tells of it: a row, or the one thing that is wrong and what to do."""

from __future__ import annotations

import pytest

from src.rows.criteo import CATEGORICAL_COLUMNS, COLUMNS
from src.rows.first_line import first_line_fault
from tests.rows.messages import ALL_MISSING, PLAIN, with_field

HEADER = "\t".join(COLUMNS).encode()
NAMELESS = b"\t".join(b"%d" % number for number in range(40))
FLOATS = b"\t".join([b"1", *[b"7.0"] * 13, *[b"ab"] * 26])


@pytest.mark.parametrize(
    "line",
    [
        PLAIN,
        ALL_MISSING,
        PLAIN + b"\r",
        b"\xef\xbb\xbf" + PLAIN,
        with_field("C1", b"68fd1e6468fd1e6468fd1e64"),
        with_field("C1", b"a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p"),
        with_field("C2", b'"quoted"'),
        with_field("C3", b"a\x00b"),
        with_field("I1", b"-1"),
        with_field("C26", "caf\u00e9\u2028".encode()),
    ],
)
def test_a_row_is_no_fault(line: bytes) -> None:
    assert first_line_fault(line) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (HEADER, "a header ('label, I1', ...): remove it"),
        (b"\xef\xbb\xbf" + HEADER, "a header ('label, I1', ...)"),
        (HEADER.replace(b"label", b"clicked"), "a header ('clicked, I1', ...)"),
        (HEADER.replace(b"label\t", b""), "a header ('I1, I2', ...)"),
        (b"\t".join(b'"%s"' % name.encode() for name in COLUMNS), "a header ('label, I1', ...)"),
        (b"id\t" + HEADER, "a header ('id, label', ...)"),
        (b"\t".join(b"col_%d" % number for number in range(40)), "a header ('col_0, col_1', ...)"),
        (NAMELESS, "a header ('0, 1', ...)"),
        (PLAIN.replace(b"\t", b","), "fields separated by commas: separate them by tabs"),
        (HEADER.replace(b"\t", b","), "fields separated by commas"),
        (PLAIN.replace(b"\t", b";"), "fields separated by semicolons"),
        (PLAIN.replace(b"\t", b" "), "fields separated by blanks"),
        (PLAIN.replace(b"\t", b"|"), "fields separated by vertical bars"),
        (PLAIN.replace(b"\t", b"\x01"), "fields separated by \\x01"),
        (PLAIN.replace(b"\t", b"\\t"), "fields separated by a backslash and a t"),
        (PLAIN.split(b"\t", 1)[1], "39 fields, the label is missing, as in Criteo's test files"),
        (
            PLAIN + b"\t",
            "41 fields, a tab at the line's end after the row: remove them (cut -f1-40)",
        ),
        (PLAIN + b"\tx\ty", "42 fields, more columns after the row: remove them (cut -f1-40)"),
        (b"1000\t" + PLAIN, "41 fields, more columns before the row: remove them (cut -f2-)"),
        (b'"1"' + PLAIN[1:], "fields in quotes"),
        (with_field("I1", b'"7"'), "fields in quotes"),
        (FLOATS, "I1: not a 64-bit integer: b'7.0'; write whole numbers"),
        (with_field("I3", b"1e3"), "I3: not a 64-bit integer: b'1e3'; write whole numbers"),
        (with_field("label", b"1.0"), "label: not 0 or 1: b'1.0'"),
        (with_field("label", b"-1"), "label: not 0 or 1: b'-1'"),
        (with_field("label", b""), "label: not 0 or 1: b''"),
        (b" " + PLAIN, "label: not 0 or 1: b' 1'; write it without blanks"),
        (with_field("C4", b"caf\xe9"), "C4: not UTF-8"),
        (b"", "an empty line: remove it"),
        (b"\r", "an empty line: remove it"),
        (PLAIN + b"\r" + PLAIN, "lines seem to end in CR alone"),
        (b'{"label": 1, "I1": 3}', "JSON: write its rows as tab-separated lines"),
        (b"<!DOCTYPE html>", "HTML or XML"),
        (b"1 " + b" ".join(b"%d:0.5" % number for number in range(39)), "libsvm"),
        (b"1\t2\t3", "3 fields, expected 40"),
        (b"x" * 2_000_000, "no line end in the first 1,048,576 bytes"),
        (PLAIN.decode().encode("utf-16"), "UTF-16 text: make it UTF-8 (iconv -f UTF-16 -t UTF-8)"),
        (b"\xfe\xff" + PLAIN.decode().encode("utf-16-be"), "UTF-16 text"),
        (PLAIN.decode().encode("utf-16-be"), "iconv -f UTF-16BE"),
        (PLAIN.decode().encode("utf-16-le"), "iconv -f UTF-16LE"),
        (PLAIN.decode().encode("utf-32"), "UTF-32 text"),
        (b"day_0".ljust(257, b"\x00") + b"ustar  ", "a tar archive"),
        (b"\x00\x01\x02binary", "a binary file"),
        (b"\x80\x04\x95", "1 fields, expected 40"),
    ],
)
def test_what_is_no_row_is_named_with_what_to_do(line: bytes, said: str) -> None:
    fault = first_line_fault(line)
    assert fault is not None
    assert said in fault
    assert "\n" not in fault
    assert len(fault) < 300


def test_a_bad_value_in_one_categorical_column_is_named_by_its_column() -> None:
    for column in CATEGORICAL_COLUMNS:
        assert (first_line_fault(with_field(column, b"\xff")) or "").startswith(
            f"{column}: not UTF"
        )
