"""A row means the same as a line, as columns, as an object and as a list; so does a bad one."""

from __future__ import annotations

import base64
from random import Random
from typing import Any

import numpy as np
import pytest

from src.features.field_keys import field_keys
from src.process.arrays import Array
from src.rows.criteo import COLUMNS, DENSE_SIZE, ParsedRows
from src.scoring.requests import rows as rows_module
from src.scoring.requests.rows import (
    MISSING_INTEGER,
    rows_of_columns,
    rows_of_instances,
    rows_of_lines,
)

FIELDS = COLUMNS[1:]
INTEGERS = [None, None, 0, 1, -5, 50, 2**53 + 1, 2**63 - 1, -(2**63) + 1]
TEXTS = [
    None,
    "",
    "a",
    "b",
    "68fd1e64",
    " ",
    '"',
    "a b",
    "ä",
    "x" * 70,
    "\0",
    "a\0",
    "\u2028",
    "\x0b",
]
ODD = [
    True,
    1.5,
    2.0,
    -0.0,
    1e300,
    2**63,
    2**70,
    "7",
    "x",
    "a\tb",
    "a\r",
    [],
    [1],
    {},
    {"b64": "!"},
]
ODD += [{"b64": "NQ=="}, {"b64": "/w=="}, {"b64": 5}, {"other": 1}, b"7", b"\xff", b"a\n"]
SEEDS = pytest.mark.parametrize("seed", range(12))


def random_rows(random: Random) -> list[list[Any]]:
    """One to five good rows of 39 fields."""
    return [
        [*random.choices(INTEGERS, k=DENSE_SIZE), *random.choices(TEXTS, k=26)]
        for _ in range(random.randint(1, 5))
    ]


def meaning(parsed: ParsedRows) -> tuple[Array, list[Any], list[Any]]:
    """Where the good rows are, their numbers, and their strings."""
    strings = [
        [None if code < 0 else values[code].as_py() for code in codes]
        for codes, values in zip(parsed.codes.T.tolist(), parsed.values)
    ]
    return parsed.index, parsed.numbers.tolist(), strings


def assert_same(parsed: ParsedRows, wanted: ParsedRows) -> None:
    # Lines keep an empty string apart from a missing one in no way.
    assert parsed.bad == wanted.bad
    np.testing.assert_array_equal(parsed.index, wanted.index)
    np.testing.assert_array_equal(parsed.numbers, wanted.numbers)
    assert meaning(parsed)[2] == meaning(wanted)[2]
    np.testing.assert_array_equal(field_keys(parsed), field_keys(wanted))


def lines_of(rows: list[list[Any]]) -> list[bytes]:
    return ["\t".join("" if v is None else str(v) for v in row).encode() for row in rows]


@SEEDS
def test_good_rows_mean_the_same_in_every_form(seed: int) -> None:
    rows = random_rows(Random(seed))
    wanted = rows_of_lines(lines_of(rows))
    assert not wanted.bad
    columns = dict(zip(FIELDS, map(list, zip(*rows))))
    count = len(rows)
    assert_same(rows_of_columns(columns, count), wanted)
    numbers = {
        name: np.array([MISSING_INTEGER if v is None else v for v in column], np.int64)
        for name, column in list(columns.items())[:DENSE_SIZE]
    }
    texts = {
        name: [(value or "").encode() for value in column]
        for name, column in list(columns.items())[DENSE_SIZE:]
    }
    assert_same(rows_of_columns({**numbers, **texts}, count), wanted)
    objects: list[Any] = [dict(zip(FIELDS, row)) for row in rows]
    assert_same(rows_of_instances(objects), wanted)
    assert_same(rows_of_instances(rows), wanted)
    assert_same(rows_of_instances([["1", *row] for row in rows]), wanted)
    assert_same(rows_of_instances([line.decode() for line in lines_of(rows)]), wanted)
    assert_same(rows_of_lines([b"1\t" + line for line in lines_of(rows)]), wanted)
    mixed = [objects[0], *rows[1:]]
    assert_same(rows_of_instances(mixed), wanted)


@SEEDS
def test_the_short_way_and_the_one_by_one_agree(seed: int) -> None:
    rows = random_rows(Random(seed))
    columns = dict(zip(FIELDS, map(list, zip(*rows))))
    at_once = rows_module._at_once(columns, len(rows))
    assert at_once is not None
    assert_same(rows_module._one_by_one(rows), at_once)


@SEEDS
def test_whatever_a_field_holds_the_other_rows_stay_as_they_are(seed: int) -> None:
    random = Random(seed)
    rows = random_rows(random)
    odd = [list(row) for row in rows]
    touched = set()
    for _ in range(random.randint(1, 6)):
        place = random.randrange(len(rows))
        odd[place][random.randrange(39)] = random.choice(ODD)
        touched.add(place)
    columns = dict(zip(FIELDS, map(list, zip(*odd))))
    parsed = rows_of_columns(columns, len(rows))
    assert {row.index for row in parsed.bad} <= touched
    assert sorted([*parsed.index, *(row.index for row in parsed.bad)]) == list(range(len(rows)))
    wanted = rows_of_lines(lines_of(rows))
    for place in set(range(len(rows))) - touched:
        (here,) = np.flatnonzero(parsed.index == place)
        np.testing.assert_array_equal(parsed.numbers[here], wanted.numbers[place])
    for bad in parsed.bad:
        assert bad.column in FIELDS
        assert "\n" not in bad.reason
    assert_same(rows_of_instances([dict(zip(FIELDS, row)) for row in odd]), parsed)


def row(**fields: Any) -> dict[str, Any]:
    return {"I1": 1, "C1": "a", **fields}


@pytest.mark.parametrize(
    ("instance", "column", "reason"),
    [
        (row(I3=1.5), "I3", "not a 64-bit integer: b'1.5'"),
        (row(I3="x"), "I3", "not a 64-bit integer: b'x'"),
        (row(I3=2**63), "I3", "not a 64-bit integer: b'9223372036854775808'"),
        (row(I3=True), "I3", "a field is neither a string nor a finite number: True"),
        (row(I3=[1]), "I3", "a field is neither a string nor a finite number: [1]"),
        (row(C2="a\tb"), "C2", "holds a tab or a line break: 'a\\tb'"),
        (row(C2="a\n"), "C2", "holds a tab or a line break: 'a\\n'"),
        (row(C2={"b64": "/w=="}), "C2", "not UTF-8: b'\\xff'"),
        (row(C2={"b64": "!"}), "C2", "not base64: '!'"),
        (row(C27="a"), "row", "'C27' is none of label, I1..I13, C1..C26"),
        ([1, 2], "row", "2 fields, expected 39 or 40"),
        ("1\t2", "row", "2 fields, expected 40: b'1\\t2'"),
        (7, "row", "neither an object, a list nor a line: 7"),
        (None, "row", "neither an object, a list nor a line: None"),
        ({"row": 7}, "row", "neither an object, a list nor a line: 7"),
    ],
)
def test_a_bad_row_is_named_by_column_and_reason(instance: Any, column: str, reason: str) -> None:
    parsed = rows_of_instances([row(), instance, "\t" * 38])
    assert parsed.index.tolist() == [0, 2]
    (bad,) = parsed.bad
    assert (bad.index, bad.column, bad.reason) == (1, column, reason)


@pytest.mark.parametrize(
    "instance",
    [
        row(I3=3.0),
        row(I3="3"),
        row(I3={"b64": base64.b64encode(b"3").decode()}),
        row(I3=3, label=None),
        row(I3=3, label="whatever"),
        {"row": "1\t\t3" + "\t" * 11 + "a" + "\t" * 25},
        {"row": {"b64": base64.b64encode(b"1\t\t3" + b"\t" * 11 + b"a" + b"\t" * 25).decode()}},
        "\t1\t\t3" + "\t" * 11 + "a" + "\t" * 25 + "\r\n",
    ],
)
def test_what_the_stream_takes_is_taken_here(instance: Any) -> None:
    assert_same(rows_of_instances([instance, row()]), rows_of_instances([row(I3=3), row()]))


def test_no_rows_are_no_rows() -> None:
    for parsed in (rows_of_lines([]), rows_of_columns({}, 0), rows_of_instances([])):
        assert (len(parsed.index), len(parsed.bad), parsed.codes.shape) == (0, 0, (0, 26))


def test_columns_that_are_not_there_are_missing() -> None:
    parsed = rows_of_columns({"C1": ["a", None]}, 2)
    assert_same(parsed, rows_of_instances([{"C1": "a"}, {}]))
    assert np.isnan(parsed.numbers).all()
