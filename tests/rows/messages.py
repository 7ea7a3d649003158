"""Rows, and strategies of rows and of what is almost a row, for the tests of this folder."""

from __future__ import annotations

import math
from typing import Any, Union

from hypothesis import strategies as st

from src.rows.criteo import CATEGORICAL_SIZE, COLUMNS, DENSE_SIZE, FIELD_SIZE, BadRow, ParsedRows
from src.rows.parsing import parse_messages

Row = tuple[float, tuple[Union[float, None], ...], tuple[Union[str, None], ...]]
"""Label, dense values, categorical values."""
Fault = tuple[str, str]
"""Column and reason."""
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


def outcomes(values: list[bytes | None], value_format: str = "tsv") -> list[Row | Fault]:
    """What became of each message: its row, or (column, reason)."""
    parsed = parse_messages(values, value_format)
    found: dict[int, Row | Fault] = {}
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


def only_fault(value: bytes | None, value_format: str = "tsv") -> BadRow:
    parsed = parse_messages([value], value_format)
    assert len(parsed.index) == len(parsed.label) == len(parsed.dense) == 0
    (bad,) = parsed.bad
    return bad


NASTY_NUMBERS = [
    b"",
    b"0",
    b"1",
    b"-",
    b"--1",
    b"+1",
    b"-0",
    b"007",
    b" 1",
    b"1 ",
    b"0x10",
    b"1e3",
    b"1.5",
    b"nan",
    b"NaN",
    b"null",
    b"inf",
    b"True",
    b"\xef\xbb\xbf1",
    b"\x00",
    b"1" * 5000,
    b"0" * 5000 + b"1",
]
NASTY_TEXTS = [
    b'"',
    b'"a',
    b"a\\",
    b"\\t",
    b"'",
    b"#",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    "١".encode(),
    "é".encode(),
    b"\r",
    b"\n",
    b"\t",
    b"1\r",
    b"\x0b",
    b"\x1c",
]
nasty_fields = st.one_of(
    st.binary(max_size=8),
    st.text(alphabet="0123456789-", max_size=22).map(str.encode),
    st.integers(-(2**65), 2**65).map(lambda number: str(number).encode()),
    st.sampled_from([*NASTY_NUMBERS, *NASTY_TEXTS]),
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
