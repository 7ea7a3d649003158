"""Message values become typed columns, and what is wrong with the others is named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from src.process.arrays import Array
from src.rows.arrow_csv import read_lines
from src.rows.criteo import (
    CATEGORICAL_COLUMNS,
    CATEGORICAL_SIZE,
    DENSE_COLUMNS,
    DENSE_SIZE,
    LABEL,
    BadRow,
    ParsedRows,
)
from src.rows.json_wire import lines_from_json
from src.rows.line_check import line_fault, may_be_read


def parse_messages(values: Sequence[bytes | None], value_format: str = "tsv") -> ParsedRows:
    """Turns message values into columns; a bad one is named and the rest are kept.

    Whether a message is a row, and which one, depends on its own bytes alone. One LF or CRLF at its
    end is the line's end.

    Args:
        values: The raw values; None (a Kafka tombstone) is a bad row.
        value_format: "tsv" or "json".
    """
    bad: list[BadRow] = []
    lines: Sequence[bytes | None] = values
    index = np.arange(len(values), dtype=np.int64)
    if value_format == "json":
        lines, index = lines_from_json(values, bad)
    table = _read_if_all_good(lines)
    if table is None and (whole := _without_line_ends(lines)) != lines:
        lines = whole
        table = _read_if_all_good(lines)
    if table is None:
        good, index = _keep_rows(lines, index, bad)
        table = read_lines(_joined(good))
    return _to_parsed_rows(table, index, sorted(bad, key=lambda row: row.index))


def parse_table(lines: Sequence[bytes]) -> tuple[pa.Table, Sequence[BadRow]]:
    """Turns lines into a table of those that are rows, by the rule of ``parse_messages``.

    Args:
        lines: The lines without their ends.

    Returns:
        (the 40 columns: the label and the dense columns int64, the categorical columns strings,
        null where missing; the lines that are not rows).
    """
    table = _read_if_all_good(lines, pa.string())
    if table is not None:
        return table, ()
    bad: list[BadRow] = []
    good, _ = _keep_rows(lines, np.arange(len(lines), dtype=np.int64), bad)
    return read_lines(_joined(good), pa.string()), bad


def _without_line_ends(lines: Sequence[bytes | None]) -> list[bytes | None]:
    """Some producers send the end of the line along; ours does not."""
    return [
        line if line is None or not line.endswith(b"\n") else line[:-1].removesuffix(b"\r")
        for line in lines
    ]


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"\n".join([*lines, b""])


def _read_if_all_good(
    lines: Sequence[bytes | None], categorical: pa.DataType | None = None
) -> pa.Table | None:
    """The lines as typed columns, or None if any of them may not be a row."""
    whole = [line for line in lines if line is not None]
    data = _joined(whole)
    if len(whole) < len(lines) or not may_be_read(data, len(whole)):
        return None
    try:
        return read_lines(data, categorical)
    except pa.ArrowInvalid:
        return None


def _keep_rows(
    lines: Sequence[bytes | None], index: Array, bad: list[BadRow]
) -> tuple[list[bytes], Array]:
    """The lines that are rows; the others are added to ``bad``.

    It works line by line, so it runs only if a batch may hold a bad line.
    """
    good: list[bytes] = []
    kept: list[int] = []
    for place, line in enumerate(lines):
        fault = line_fault(line)
        if line is not None and fault is None:
            good.append(line)
            kept.append(place)
        elif fault is not None:
            column, reason = fault
            bad.append(BadRow(int(index[place]), column, reason))
    return good, index[kept]


def _to_parsed_rows(table: pa.Table, index: Array, bad: Sequence[BadRow]) -> ParsedRows:
    numbers = np.empty((table.num_rows, DENSE_SIZE), dtype=np.float64, order="F")
    for place, column in enumerate(DENSE_COLUMNS):
        numbers[:, place] = table[column].to_numpy()
    # Each column was read as one block.
    coded = [table[column].chunk(0) for column in CATEGORICAL_COLUMNS]
    codes = pa.concat_arrays([column.indices for column in coded]).fill_null(-1).to_numpy()
    label = table[LABEL].to_numpy().astype(np.float32)
    return ParsedRows(
        index,
        label,
        numbers,
        codes.reshape(CATEGORICAL_SIZE, -1).T,
        [column.dictionary for column in coded],
        bad,
    )
