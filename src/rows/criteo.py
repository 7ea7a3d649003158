"""The Criteo row format: the one place that knows its columns, and how bytes become columns.

A row is 40 tab-separated fields without a header: the label (0 or 1), thirteen integers ``I1..I13``
and twenty-six strings ``C1..C26``; an integer or a string may be missing (an empty field). On the
wire a message's value is that line (``tsv``) or a JSON list of its 40 fields (``json``, the wire of
the original example).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from src.process.arrays import Array

LABEL = "label"
DENSE_COLUMNS = tuple(f"I{number}" for number in range(1, 14))
CATEGORICAL_COLUMNS = tuple(f"C{number}" for number in range(1, 27))
COLUMNS = (LABEL, *DENSE_COLUMNS, *CATEGORICAL_COLUMNS)
DENSE_SIZE = len(DENSE_COLUMNS)
CATEGORICAL_SIZE = len(CATEGORICAL_COLUMNS)
FIELD_SIZE = DENSE_SIZE + CATEGORICAL_SIZE
VALUE_FORMATS = ("tsv", "json")
ROW = "row"
"""Stands for the column where a line as a whole is at fault."""

# pyarrow would take SIGTERM and SIGINT for itself while it reads, and fail the read.
pa.enable_signal_handlers(False)

_TAB = ord("\t")
_ONE_IF_FOREIGN = bytes(byte not in b"0123456789-\t" for byte in range(256))
_LABELS = (b"0", b"1")
# Eighteen digits always fit 64 bits; a longer number is looked at more closely.
_PLAIN_NUMBERS = re.compile(rb"[01]\t(?:(?:-?[0-9]{1,18})?\t){13}")
_INTEGER = re.compile(rb"-?[0-9]+")
_INT64 = np.iinfo(np.int64)
CHECKED_LINES = 1_000  # at a time: what the check makes of them stays in the processor's cache
_TOMBSTONE = "no value (a tombstone)"
_PARSE_OPTIONS = pa.csv.ParseOptions(
    delimiter="\t", quote_char=False, escape_char=False, ignore_empty_lines=False
)


@dataclass(frozen=True)
class BadRow:
    """A message that is no row, and why.

    Attributes:
        index: The message's place in the list that was parsed.
        column: The column at fault, or "row" where the line as a whole is.
        reason: What is wrong, with the value, on one line.
    """

    index: int
    column: str
    reason: str


@dataclass(frozen=True)
class ParsedRows:
    """The rows found among some messages.

    Attributes:
        index: int64[n], each row's place in the list that was parsed, ascending.
        label: float32[n], 0 or 1.
        numbers: float64[n, 13], the dense columns, NaN where missing.
        codes: int32[n, 26], the categorical columns' places in ``values``, -1 where missing.
        values: The distinct values of each categorical column, pyarrow strings.
        bad: The messages that are no rows, in order.
    """

    index: Array
    label: Array
    numbers: Array
    codes: Array
    values: Sequence[pa.Array]
    bad: Sequence[BadRow]

    @property
    def dense(self) -> pd.DataFrame:
        """DataFrame[n, 13] of float64, NaN where missing."""
        return pd.DataFrame(self.numbers, columns=list(DENSE_COLUMNS), copy=False)

    @property
    def categorical(self) -> pd.DataFrame:
        """DataFrame[n, 26] of pandas categories, for who wants to see the values themselves."""
        columns = zip(CATEGORICAL_COLUMNS, self.codes.T, self.values)
        return pd.DataFrame(
            {
                name: pd.Categorical.from_codes(codes, values.to_pylist())
                for name, codes, values in columns
            }
        )


def parse_messages(values: Sequence[bytes | None], value_format: str = "tsv") -> ParsedRows:
    """Turns message values into columns; a bad one is named and the rest goes on.

    Whether a message is a row, and which, depends on its own bytes alone.

    Args:
        values: The raw values; None (a Kafka tombstone) is a bad row.
        value_format: "tsv" or "json".
    """
    bad: list[BadRow] = []
    lines: Sequence[bytes | None] = values
    index = np.arange(len(values), dtype=np.int64)
    if value_format == "json":
        lines, index = _lines_from_json(values, bad)
    table = _read_if_all_good(lines)
    if table is None:
        good, index = _keep_rows(lines, index, bad)
        table = _read(_joined(good))
    return _to_parsed_rows(table, index, sorted(bad, key=lambda row: row.index))


def read_options(block_size: int = 1 << 20) -> pa.csv.ReadOptions:
    """How a Criteo file without a header is read."""
    return pa.csv.ReadOptions(column_names=list(COLUMNS), block_size=block_size, use_threads=False)


def parse_options() -> pa.csv.ParseOptions:
    """Tab-separated, nothing quoted, nothing escaped."""
    return _PARSE_OPTIONS


def convert_options(categorical: pa.DataType | None = None) -> pa.csv.ConvertOptions:
    """Integers for the label and the dense columns; only the empty field is missing.

    Args:
        categorical: The type of ``C1..C26``; dictionary-encoded strings unless told otherwise.
    """
    text = pa.dictionary(pa.int32(), pa.string()) if categorical is None else categorical
    types: dict[str, pa.DataType] = {column: text for column in CATEGORICAL_COLUMNS}
    types.update({column: pa.int64() for column in (LABEL, *DENSE_COLUMNS)})
    return pa.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)


def line_from_fields(fields: Sequence[Any]) -> bytes:
    """One wire line from 40 field values; None and NaN are missing.

    Raises:
        ValueError: There are not 40 fields, or one holds a tab or a line break, or one is neither
            a string nor a finite number, or can't be written as UTF-8.
    """
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} fields, expected {len(COLUMNS)}: {_shown(fields)}")
    texts = list(map(_field_text, fields))
    line = "\t".join(texts)
    if line.count("\t") != len(COLUMNS) - 1 or "\n" in line or "\r" in line:
        for column, text in zip(COLUMNS, texts):
            if any(mark in text for mark in "\t\n\r"):
                raise ValueError(f"{column} holds a tab or a line break: {_shown(text)}")
    return line.encode()


def json_message(line: bytes) -> tuple[bytes, bytes]:
    """The original example's wire for one line: (key, value).

    The key is the JSON list of column names, the value the JSON list of 40 values: the label and
    the dense columns are numbers, a missing number is NaN and a missing string null. What ought to
    be a number and is none stays a string, for the reader to name as it would in the line itself.

    Raises:
        UnicodeDecodeError: The line is not UTF-8.
    """
    fields = line.decode().split("\t")
    label = int(fields[0]) if fields[0].encode() in _LABELS else fields[0]
    numbers = [_json_number(text) for text in fields[1 : 1 + DENSE_SIZE]]
    strings = [text or None for text in fields[1 + DENSE_SIZE :]]
    return _JSON_KEY, json.dumps([label, *numbers, *strings]).encode()


def is_header(line: bytes) -> bool:
    """Whether a file's first line names columns instead of holding a row."""
    return line.split(b"\t", 1)[0].strip().lower() == LABEL.encode()


_JSON_KEY = json.dumps(list(COLUMNS)).encode()


def _json_number(text: str) -> float | int | str:
    if not text:
        return math.nan
    if not _is_integer(text.encode()):
        return text
    exact = int(text)
    return float(exact) if float(exact) == exact else exact


def _field_text(field: Any) -> str:
    kind = type(field)
    if kind is str:
        return str(field)
    if field is None:
        return ""
    if kind is int:
        return str(field)
    if kind is float:
        if math.isnan(field):
            return ""
        if math.isfinite(field):
            return str(int(field)) if field.is_integer() else str(field)
    raise ValueError(f"a field is neither a string nor a finite number: {_shown(field)}")


def _lines_from_json(
    values: Sequence[bytes | None], bad: list[BadRow]
) -> tuple[list[bytes], Array]:
    """JSON values as wire lines. The documented wire is per row, so this loop is too."""
    lines: list[bytes] = []
    index: list[int] = []
    for place, value in enumerate(values):
        if value is None:
            bad.append(BadRow(place, ROW, _TOMBSTONE))
            continue
        try:
            fields = json.loads(value)
            if not isinstance(fields, list):
                raise ValueError(f"not a JSON list: {_shown(value)}")
            lines.append(line_from_fields(fields))
            index.append(place)
        except (ValueError, RecursionError) as error:
            bad.append(BadRow(place, ROW, f"{error}"))
    return lines, np.asarray(index, dtype=np.int64)


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"\n".join([*lines, b""])


def _read_if_all_good(lines: Sequence[bytes | None]) -> pa.Table | None:
    """The lines as typed columns, or None when one of them is, or may be, no row."""
    pieces = []
    for begin in range(0, len(lines), CHECKED_LINES):
        piece = lines[begin : begin + CHECKED_LINES]
        whole = [line for line in piece if line is not None]
        data = _joined(whole)
        if len(whole) < len(piece) or not _all_plain(data, len(whole)):
            return None
        pieces.append(data)
    try:
        return _read(b"".join(pieces))
    except pa.ArrowInvalid:
        return None


def _all_plain(data: bytes, rows: int) -> bool:
    """Whether each line has 40 fields, a label and dense fields of digits and minus signs only.

    The CSV reader is kinder than the format: it trims blanks, reads 0x10 and swallows a byte order
    mark. What counts as a row must not depend on which rows stand beside it, so this comes first.

    Args:
        data: The lines, each with a line feed behind it.
        rows: How many there are.
    """
    if data.count(b"\n") != rows or b"\r" in data:
        return False
    if not rows:
        return True
    buffer = np.frombuffer(data, dtype=np.uint8)
    tabs_at = np.flatnonzero(buffer == _TAB)
    if tabs_at.size != rows * (len(COLUMNS) - 1):
        return False
    tabs_at = tabs_at.reshape(rows, len(COLUMNS) - 1)
    ends = np.flatnonzero(buffer == ord("\n"))
    starts = np.concatenate(([0], ends[:-1] + 1))
    # The total is right; so is each line's count if its last tab stands before its end.
    if (tabs_at[:, -1] > ends).any() or (tabs_at[:, 0] != starts + 1).any():
        return False
    if (buffer[starts] & 0xFE != ord("0")).any():
        return False
    pieces = np.column_stack((starts, tabs_at[:, DENSE_SIZE])).ravel()
    is_foreign = np.frombuffer(data.translate(_ONE_IF_FOREIGN), dtype=np.uint8)
    foreign = np.bitwise_or.reduceat(is_foreign, pieces)
    return not foreign[::2].any()


def _read(data: bytes) -> pa.Table:
    """Lines as typed columns.

    Raises:
        pa.ArrowInvalid: A field does not fit its type.
    """
    options = convert_options()
    if not data:
        types = options.column_types
        return pa.table({column: pa.array([], type=types[column]) for column in COLUMNS})
    return pa.csv.read_csv(
        pa.py_buffer(data), read_options(len(data) + 1), parse_options(), options
    )


def _keep_rows(
    lines: Sequence[bytes | None], index: Array, bad: list[BadRow]
) -> tuple[list[bytes], Array]:
    """The lines that are rows; names what is wrong with the others.

    This says what a row is, line by line; it runs only on a batch that may hold a bad one.
    """
    good: list[bytes] = []
    kept: list[int] = []
    for place, line in enumerate(lines):
        fault = _line_fault(line)
        if line is not None and fault is None:
            good.append(line)
            kept.append(place)
        elif fault is not None:
            bad.append(BadRow(int(index[place]), *fault))
    return good, index[kept]


def _line_fault(line: bytes | None) -> tuple[str, str] | None:
    """(column, reason) of the first thing wrong with a line, or None if it is a row."""
    if line is None:
        return ROW, _TOMBSTONE
    if b"\n" in line or b"\r" in line:
        return ROW, f"a line break within the row: {_shown(line)}"
    tabs = line.count(b"\t")
    if tabs != len(COLUMNS) - 1:
        return ROW, f"{tabs + 1} fields, expected {len(COLUMNS)}: {_shown(line)}"
    if not _PLAIN_NUMBERS.match(line):
        label, *fields = line.split(b"\t", DENSE_SIZE + 1)
        if label not in _LABELS:
            return LABEL, f"not 0 or 1: {_shown(label)}"
        for column, field in zip(DENSE_COLUMNS, fields):
            if field and not _is_integer(field):
                return column, f"not a 64-bit integer: {_shown(field)}"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        place = line.count(b"\t", 0, error.start)
        field = line.split(b"\t")[place]
        return COLUMNS[place], f"not UTF-8: {_shown(field)}"
    return None


def _is_integer(field: bytes) -> bool:
    if not _INTEGER.fullmatch(field):
        return False
    # Python refuses to read some thousand digits; twenty significant ones are too many already.
    digits = field.lstrip(b"-").lstrip(b"0")
    return len(digits) < 20 and _INT64.min <= int(field) <= _INT64.max


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _to_parsed_rows(table: pa.Table, index: Array, bad: Sequence[BadRow]) -> ParsedRows:
    numbers = np.empty((table.num_rows, DENSE_SIZE), dtype=np.float64, order="F")
    codes = np.empty((table.num_rows, CATEGORICAL_SIZE), dtype=np.int32, order="F")
    for place, column in enumerate(DENSE_COLUMNS):
        numbers[:, place] = table[column].to_numpy()
    values = []
    for place, column in enumerate(CATEGORICAL_COLUMNS):
        (chunk,) = table[column].chunks  # it was read as one block
        codes[:, place] = chunk.indices.fill_null(-1).to_numpy()
        values.append(chunk.dictionary)
    label = table[LABEL].to_numpy().astype(np.float32)
    return ParsedRows(index, label, numbers, codes, values, bad)
