"""The rows of a request, in whatever form they come, as the consumer parses them.

A request holds lines, columns, or rows of fields. Columns take a short way without a loop over the
rows. Where it meets anything unusual, every row becomes a line, as on the JSON wire of the stream.
Then the consumer's parser decides. So a row means the same in all forms, and a bad one is named by
its column. The label is not looked at, and may be left out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Union

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from src.process.arrays import Array
from src.rows.criteo import (
    CATEGORICAL_COLUMNS,
    CATEGORICAL_SIZE,
    COLUMNS,
    DENSE_COLUMNS,
    DENSE_SIZE,
    FIELD_SIZE,
    ROW,
    BadRow,
    ParsedRows,
)
from src.rows.json_wire import line_from_fields
from src.rows.parsing import parse_messages
from src.rows.short_repr import short_repr

Column = Union[Sequence[Any], Array]
"""A value for each row: an int64 array, or a sequence of int, str, bytes or None for missing."""
MISSING_INTEGER = int(np.iinfo(np.int64).min)
"""Stands for a missing number in an int64 array, as an array has no null."""
_END_OF_INTEGERS = 2.0**63
_NAMES = frozenset(COLUMNS)
_EXPECTED = "none of label, I1..I13, C1..C26"
_MARKS = (b"\t", b"\n", b"\r")
_WIDTHS = (FIELD_SIZE, FIELD_SIZE + 1)


def rows_of_lines(lines: Sequence[bytes | None]) -> ParsedRows:
    """Rows of tab-separated lines, each of 39 fields, or of 40 where the label is there."""
    return parse_messages([None if line is None else _with_label(line) for line in lines])


def rows_of_columns(columns: Mapping[str, Column], count: int) -> ParsedRows:
    """Rows of columns by name; a column that is not there is missing in every row.

    Args:
        columns: Some of ``label``, ``I1..I13``, ``C1..C26``, each with a value for every row.
        count: The number of rows.
    """
    parsed = _at_once(columns, count)
    if parsed is not None:
        return parsed
    nothing = [None] * count
    whole = [_listed(columns.get(name, nothing)) for name in COLUMNS[1:]]
    return _one_by_one([list(fields) for fields in zip(*whole)])


def rows_of_instances(instances: Sequence[Any]) -> ParsedRows:
    """Rows of a JSON list: objects by column, lists of 39 or 40 fields, or lines."""
    kinds = set(map(type, instances))
    if kinds == {str}:
        return rows_of_lines([line.encode() for line in instances])
    if kinds == {dict}:
        names = set().union(*instances)
        if names <= _NAMES:
            columns = {name: [row.get(name) for row in instances] for name in names}
            return rows_of_columns(columns, len(instances))
    if kinds == {list}:
        (width, *others) = {len(fields) for fields in instances}
        if width in _WIDTHS and not others:
            return rows_of_columns(dict(zip(COLUMNS[-width:], zip(*instances))), len(instances))
    return _one_by_one([_instance(place, row) for place, row in enumerate(instances)])


def rows_of_row_column(lines: Column) -> ParsedRows:
    """Rows of a column that holds a whole row in each element."""
    if set(map(type, lines)) <= {str, bytes}:
        return rows_of_lines([line if type(line) is bytes else line.encode() for line in lines])
    return _one_by_one([_instance(place, {ROW: line}) for place, line in enumerate(lines)])


def _with_label(line: bytes) -> bytes:
    """The line with a label that is always good."""
    tabs = line.count(b"\t")
    if tabs == FIELD_SIZE - 1:
        return b"0\t" + line
    return b"0" + line[line.index(b"\t") :] if tabs == FIELD_SIZE else line


# --- all rows at once


def _at_once(columns: Mapping[str, Column], count: int) -> ParsedRows | None:
    """The rows, if every value is plainly good."""
    numbers = np.full((count, DENSE_SIZE), np.nan, order="F")
    codes = np.full((count, CATEGORICAL_SIZE), -1, dtype=np.int32, order="F")
    values = [pa.array([], pa.string())] * CATEGORICAL_SIZE
    try:
        for name, column in columns.items():
            if name in DENSE_COLUMNS:
                numbers[:, DENSE_COLUMNS.index(name)] = _numbers(column)
            elif name in CATEGORICAL_COLUMNS:
                place = CATEGORICAL_COLUMNS.index(name)
                texts = _texts(column).dictionary_encode()
                codes[:, place] = texts.indices.fill_null(-1).to_numpy()
                values[place] = texts.dictionary
    except (ValueError, TypeError, OverflowError):  # pyarrow's errors are among them
        return None
    if _holds_a_mark(values):
        return None
    label = np.zeros(count, dtype=np.float32)
    return ParsedRows(np.arange(count, dtype=np.int64), label, numbers, codes, values, [])


def _numbers(column: Column) -> Array:
    """float64[rows], NaN where missing.

    Raises:
        ValueError, OverflowError: Something is no 64-bit integer.
    """
    if isinstance(column, np.ndarray):
        return np.where(column == MISSING_INTEGER, np.nan, column)
    kinds = set(map(type, column)) - {type(None)}
    if kinds <= {int}:
        numbers: Array = pa.array(column, pa.int64()).to_numpy(zero_copy_only=False)
        return numbers
    if not kinds <= {int, float}:
        raise ValueError("not only numbers")
    numbers = pa.array(column, pa.float64()).to_numpy(zero_copy_only=False)
    given = numbers[~np.isnan(numbers)]
    if not ((np.abs(given) < _END_OF_INTEGERS) & (given == np.trunc(given))).all():
        raise ValueError("not only integers")
    return numbers + 0.0  # a line has no -0


def _texts(column: Column) -> pa.Array:
    """Strings, null where missing.

    Raises:
        ValueError, TypeError: Something is no string, or not UTF-8.
    """
    kinds = set(map(type, column)) - {type(None)}
    if kinds <= {str}:
        texts = pa.array(column, pa.string())
    elif kinds <= {bytes}:
        texts = pa.array(column, pa.binary()).cast(pa.string())
    else:
        raise ValueError("not only strings")
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _holds_a_mark(values: Sequence[pa.Array]) -> bool:
    """Whether a tab or the end of a line is in a value."""
    data = pa.concat_arrays(values).buffers()[2]
    text = b"" if data is None else data.to_pybytes()
    return any(mark in text for mark in _MARKS)


# --- one row after the other


def _one_by_one(rows: Sequence[list[Any] | bytes | BadRow]) -> ParsedRows:
    """Rows as lists of 39 fields, as lines, or bad already."""
    lines: list[bytes] = []
    places: list[int] = []
    bad: list[BadRow] = []
    for place, row in enumerate(rows):
        line = _line(place, row) if isinstance(row, list) else row
        if isinstance(line, BadRow):
            bad.append(line)
        else:
            lines.append(line)
            places.append(place)
    parsed = rows_of_lines(lines)
    bad += [replace(row, index=places[row.index]) for row in parsed.bad]
    index = np.asarray(places, dtype=np.int64)[parsed.index]
    return replace(parsed, index=index, bad=sorted(bad, key=lambda row: row.index))


def _line(place: int, fields: Sequence[Any]) -> bytes | BadRow:
    """A row's line, or what is wrong with it."""
    try:
        return line_from_fields([0, *map(_text_of, fields)])
    except ValueError:
        # The message may not tell which field it is: the fault shows in a row of that field alone.
        for column, field in zip(COLUMNS[1:], fields):
            try:
                line_from_fields([0, *[None] * (FIELD_SIZE - 1), _text_of(field)])
            except ValueError as error:
                return BadRow(place, column, str(error).removeprefix(f"{COLUMNS[-1]} "))
        raise


def _text_of(field: Any) -> Any:
    """A field with its bytes decoded; TensorFlow Serving writes bytes as {"b64": …}."""
    if isinstance(field, dict) and field.keys() == {"b64"}:
        field = _from_base64(field["b64"])
    if not isinstance(field, bytes):
        return field
    try:
        return field.decode()
    except UnicodeDecodeError:
        raise ValueError(f"not UTF-8: {short_repr(field)}") from None


def _from_base64(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error:
        raise ValueError(f"not base64: {short_repr(text)}") from None


def _instance(place: int, row: Any) -> list[Any] | bytes | BadRow:
    """An instance as 39 fields or as a line."""
    if isinstance(row, dict) and row.keys() == {ROW}:
        row = row[ROW]
    try:
        row = _text_of(row)
    except ValueError as error:
        return BadRow(place, ROW, str(error))
    if isinstance(row, str):
        return row.encode()
    if isinstance(row, dict):
        unknown = [name for name in row if name not in _NAMES]
        if unknown:
            return BadRow(place, ROW, f"{short_repr(unknown[0])} is {_EXPECTED}")
        return [row.get(name) for name in COLUMNS[1:]]
    if not isinstance(row, list):
        return BadRow(place, ROW, f"neither an object, a list nor a line: {short_repr(row)}")
    if len(row) not in _WIDTHS:
        return BadRow(place, ROW, "{} fields, expected {} or {}".format(len(row), *_WIDTHS))
    return row[-FIELD_SIZE:]


def _listed(column: Column) -> Sequence[Any]:
    """A column's values, None where missing."""
    if not isinstance(column, np.ndarray):
        return column
    return [None if number == MISSING_INTEGER else number for number in column.tolist()]
