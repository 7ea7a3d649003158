"""The Criteo row format: the one place that knows its columns, and how bytes become columns.

A row is 40 tab-separated fields without a header: the label (0 or 1), thirteen integers ``I1..I13``
and twenty-six strings ``C1..C26``; an integer or a string may be missing (an empty field). On the
wire a message's value is that line (``tsv``) or a JSON list of its 40 fields (``json``, the wire of
the original example).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Optional, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

LABEL = "label"
DENSE_COLUMNS = tuple(f"I{number}" for number in range(1, 14))
CATEGORICAL_COLUMNS = tuple(f"C{number}" for number in range(1, 27))
COLUMNS = (LABEL, *DENSE_COLUMNS, *CATEGORICAL_COLUMNS)
DENSE_SIZE = len(DENSE_COLUMNS)
CATEGORICAL_SIZE = len(CATEGORICAL_COLUMNS)
FIELD_SIZE = DENSE_SIZE + CATEGORICAL_SIZE
VALUE_FORMATS = ("tsv", "json")

_TAB, _LINE_FEED, _CARRIAGE_RETURN = b"\t\n\r"
_NUMBER_BYTES = np.zeros(256, dtype=bool)
_NUMBER_BYTES[list(b"0123456789-\t")] = True
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
        dense: DataFrame[n, 13] of float64, NaN where missing.
        categorical: DataFrame[n, 26] of pandas categories, code -1 where missing.
        bad: The messages that are no rows, in order.
    """

    index: np.ndarray
    label: np.ndarray
    dense: pd.DataFrame
    categorical: pd.DataFrame
    bad: Sequence[BadRow]


def parse_messages(values: Sequence[Optional[bytes]], value_format: str = "tsv") -> ParsedRows:
    """Turns message values into columns; a bad one is named and the rest goes on.

    Args:
        values: The raw values; None (a Kafka tombstone) is a bad row.
        value_format: "tsv" or "json".
    """
    bad: list[BadRow] = []
    if value_format == "json":
        lines, index = _lines_from_json(values, bad)
    else:
        lines, index = list(values), np.arange(len(values))
    lines, index = _keep_whole_lines(lines, index, bad)
    table = _read_typed(lines)
    if table is None:
        lines, index = _keep_valid_fields(lines, index, bad)
        table = _read_typed(lines)
        if table is None:
            raise AssertionError("a row passed every check and still could not be read")
    return _to_parsed_rows(table, index, sorted(bad, key=lambda row: row.index))


def read_options(block_size: int = 1 << 20) -> pa.csv.ReadOptions:
    """How a Criteo file without a header is read."""
    return pa.csv.ReadOptions(
        column_names=list(COLUMNS), block_size=block_size, use_threads=False
    )


def parse_options() -> pa.csv.ParseOptions:
    """Tab-separated, nothing quoted, nothing escaped."""
    return _PARSE_OPTIONS


def convert_options(categorical: Optional[pa.DataType] = None) -> pa.csv.ConvertOptions:
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
        ValueError: There are not 40 fields or one holds a tab or a line break.
    """
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} fields, expected {len(COLUMNS)}")
    texts = [_field_text(field) for field in fields]
    for column, text in zip(COLUMNS, texts):
        if any(mark in text for mark in "\t\n\r"):
            raise ValueError(f"{column} holds a tab or a line break: {text!r}")
    return "\t".join(texts).encode()


def json_message(line: bytes) -> tuple[bytes, bytes]:
    """The original example's wire for one line: (key, value).

    The key is the JSON list of column names, the value the JSON list of 40 values: the label and
    the dense columns are numbers, a missing number is NaN and a missing string null.
    """
    fields = line.decode().split("\t")
    numbers = [float(text) if text else math.nan for text in fields[1 : 1 + DENSE_SIZE]]
    strings = [text or None for text in fields[1 + DENSE_SIZE :]]
    return _JSON_KEY, json.dumps([int(fields[0]), *numbers, *strings]).encode()


def is_header(line: bytes) -> bool:
    """Whether a file's first line names columns instead of holding a row."""
    return line.split(b"\t", 1)[0].strip().lower() == LABEL.encode()


_JSON_KEY = json.dumps(list(COLUMNS)).encode()


def _field_text(field: Any) -> str:
    if field is None or (isinstance(field, float) and math.isnan(field)):
        return ""
    if isinstance(field, float) and field.is_integer():
        return str(int(field))
    if isinstance(field, (str, int, float)) and not isinstance(field, bool):
        return str(field)
    raise ValueError(f"a field is neither a number nor a string: {_shown(field)}")


def _lines_from_json(
    values: Sequence[Optional[bytes]], bad: list[BadRow]
) -> tuple[list[Optional[bytes]], np.ndarray]:
    """JSON values as wire lines. The documented wire is per row, so this loop is too."""
    lines: list[Optional[bytes]] = []
    index: list[int] = []
    for place, value in enumerate(values):
        try:
            fields = json.loads(value) if value is not None else None
            if not isinstance(fields, list):
                raise ValueError(f"not a JSON list: {_shown(value)}")
            lines.append(line_from_fields(fields))
            index.append(place)
        except (ValueError, RecursionError) as error:
            bad.append(BadRow(place, "row", f"{error}"))
    return lines, np.asarray(index, dtype=np.int64)


def _keep_whole_lines(
    lines: Sequence[Optional[bytes]], index: np.ndarray, bad: list[BadRow]
) -> tuple[list[bytes], np.ndarray]:
    """Drops what is not one line of 40 fields, so that no column can ever shift."""
    values = [b"" if line is None else line for line in lines]
    tabs, breaks = _count_marks(values)
    whole = (tabs == len(COLUMNS) - 1) & (breaks == 0)
    if whole.all():
        return values, index
    for place in np.flatnonzero(~whole):
        value = lines[place]
        if value is None:
            reason = "no value (a tombstone)"
        elif breaks[place]:
            reason = f"a line break within the row: {_shown(value)}"
        else:
            reason = f"{tabs[place] + 1} fields, expected {len(COLUMNS)}: {_shown(value)}"
        bad.append(BadRow(int(index[place]), "row", reason))
    kept = np.flatnonzero(whole)
    return [values[place] for place in kept], index[kept]


def _count_marks(values: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Tabs and line breaks in each value, counted over one joined buffer."""
    buffer, starts, ends = _joined(values)
    tabs_at = np.flatnonzero(buffer == _TAB)
    breaks_at = np.flatnonzero((buffer == _LINE_FEED) | (buffer == _CARRIAGE_RETURN))
    return (
        np.searchsorted(tabs_at, ends) - np.searchsorted(tabs_at, starts),
        np.searchsorted(breaks_at, ends) - np.searchsorted(breaks_at, starts),
    )


def _joined(values: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All bytes in one uint8 array, and where each value starts and ends in it."""
    ends = np.cumsum(np.fromiter(map(len, values), dtype=np.int64, count=len(values)))
    starts = np.concatenate(([0], ends[:-1])).astype(np.int64)
    return np.frombuffer(b"".join(values), dtype=np.uint8), starts, ends


def _numbers_are_plain(lines: Sequence[bytes]) -> bool:
    """Whether the label is one character and the dense fields hold only digits and minus signs.

    The CSV reader is kinder than the format: it trims blanks, reads 0x10 and swallows a byte order
    mark. What counts as a row must not depend on which rows stand beside it, so this comes first.
    """
    buffer, starts, _ = _joined(lines)
    tabs_at = np.flatnonzero(buffer == _TAB).reshape(len(lines), len(COLUMNS) - 1)
    last_dense_end = tabs_at[:, DENSE_SIZE]
    foreign_at = np.flatnonzero(~_NUMBER_BYTES[buffer])
    foreign = np.searchsorted(foreign_at, last_dense_end) - np.searchsorted(foreign_at, starts)
    return bool((tabs_at[:, 0] - starts == 1).all() and not foreign.any())


def _read_typed(lines: Sequence[bytes]) -> Optional[pa.Table]:
    """The lines as typed columns, or None when a field does not fit its type."""
    if not lines:
        return pa.table(
            {
                column: pa.array([], type=data_type)
                for column, data_type in convert_options().column_types.items()
            }
        ).select(list(COLUMNS))
    if not _numbers_are_plain(lines):
        return None
    data = b"\n".join(lines) + b"\n"
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(data), read_options(len(data) + 1), parse_options(), convert_options()
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(lines) or table[LABEL].null_count:
        return None
    label = table[LABEL]
    in_range = pc.and_(pc.greater_equal(label, 0), pc.less_equal(label, 1))
    return table if pc.all(in_range).as_py() else None


def _keep_valid_fields(
    lines: Sequence[bytes], index: np.ndarray, bad: list[BadRow]
) -> tuple[list[bytes], np.ndarray]:
    """Finds the rows with a field of the wrong type and names the first such field.

    This is the slow path: it runs only on a batch that is known to hold a bad row.
    """
    kept: list[int] = []
    for place, line in enumerate(lines):
        fault = _field_fault(line)
        if fault is None:
            kept.append(place)
        else:
            bad.append(BadRow(int(index[place]), *fault))
    return [lines[place] for place in kept], index[kept]


def _field_fault(line: bytes) -> Optional[tuple[str, str]]:
    """(column, reason) of the first field that does not fit, or None."""
    fields = line.split(b"\t")
    if fields[0] not in (b"0", b"1"):
        return LABEL, f"not 0 or 1: {_shown(fields[0])}"
    for column, field in zip(DENSE_COLUMNS, fields[1:]):
        if field and not _is_integer(field):
            return column, f"not a 64-bit integer: {_shown(field)}"
    for column, field in zip(CATEGORICAL_COLUMNS, fields[1 + DENSE_SIZE :]):
        try:
            field.decode()
        except UnicodeDecodeError:
            return column, f"not UTF-8: {_shown(field)}"
    return None


def _is_integer(field: bytes) -> bool:
    """Whether the CSV reader, too, takes the field as a 64-bit integer."""
    if not field.isascii() or not _NUMBER_BYTES[list(field)].all():
        return False
    try:
        pa.array([field.decode()]).cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _to_parsed_rows(table: pa.Table, index: np.ndarray, bad: Sequence[BadRow]) -> ParsedRows:
    dense = np.empty((table.num_rows, DENSE_SIZE), dtype=np.float64, order="F")
    for place, column in enumerate(DENSE_COLUMNS):
        dense[:, place] = table[column].to_numpy()
    return ParsedRows(
        index=index,
        label=table[LABEL].to_numpy().astype(np.float32),
        dense=pd.DataFrame(dense, columns=list(DENSE_COLUMNS), copy=False),
        categorical=table.select(list(CATEGORICAL_COLUMNS)).to_pandas(),
        bad=bad,
    )
