"""Reads a Criteo file block by block, and names the first line that is no row."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from src.process.files import PathLike
from src.rows.arrow_csv import convert_options, parse_options, read_options
from src.rows.criteo import LABEL, is_header
from src.rows.parsing import parse_messages

BLOCK_BYTES = 16 << 20
_LINE_FEED = ord("\n")


class DataError(ValueError):
    """A file that is not a Criteo file; the message names file, line, column and value."""


def read_blocks(
    path: PathLike, rows: int | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[pa.Table, int]]:
    """Reads a Criteo file block by block.

    Args:
        path: The file: 40 tab-separated fields a line, no header; lines may end in CR LF.
        rows: Stop after this many rows.
        block_bytes: Least size of every block but the last.

    Yields:
        (a table of the 40 columns, bytes read for it); the label and the dense columns are int64,
        the categorical columns strings, and null is missing.

    Raises:
        DataError: A line is no row; file, line, column and value are named.
        OSError: The file cannot be read.
    """
    line_number = 1
    with open(path, "rb") as file:
        while rows is None or rows > 0:
            data = file.read(block_bytes)
            data += file.readline()
            if rows is not None:
                data = _first_lines(data, rows)
            if not data:
                return
            if line_number == 1 and is_header(data.split(b"\n", 1)[0]):
                raise DataError(
                    f'{path}: line 1 is a header (its first field is "{LABEL}"), and a Criteo '
                    "file has none: remove it"
                )
            table = _read_block(data, path, line_number)
            yield table, len(data)
            line_number += table.num_rows
            rows = None if rows is None else rows - table.num_rows


def _first_lines(data: bytes, lines: int) -> bytes:
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _LINE_FEED)
    return data if len(ends) <= lines else data[: ends[lines - 1] + 1]


def _read_block(data: bytes, path: PathLike, first_line: int) -> pa.Table:
    """Parses whole lines; if any is no row, looks for it line by line."""
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    options = convert_options(pa.string())
    options.column_types = {**options.column_types, LABEL: pa.string()}  # 00 is no label
    fault = None
    try:
        table = pa.csv.read_csv(pa.py_buffer(data), read_options(), parse_options(), options)
        if table.num_rows == lines and _holds_labels(table[LABEL]):
            fault = _first_fault(data, path, first_line) if _may_be_misread(data) else None
            if fault is None:
                return table.set_column(0, LABEL, table[LABEL].cast(pa.int64()))
    except pa.ArrowInvalid:
        pass  # the message names neither the file's line nor the column
    last_line = first_line + lines - 1
    raise DataError(
        fault
        or _first_fault(data, path, first_line)
        or f"{path}: lines {first_line} to {last_line} cannot be read"
    )


def _holds_labels(label: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.is_in(label, pa.array(["0", "1"]))).as_py())


def _may_be_misread(data: bytes) -> bool:
    """Whether the CSV reader may have accepted what the format does not allow.

    It trims blanks around a number, reads 0x10 and drops a byte order mark.
    """
    return any(mark in data for mark in (b" ", b"x", b"X")) or data.startswith(codecs.BOM_UTF8)


def _first_fault(data: bytes, path: PathLike, first_line: int) -> str | None:
    """File, line, column and reason of the first line that is no row, or None if all are."""
    lines = data.removesuffix(b"\n").split(b"\n")
    for start in range(0, len(lines), 1000):
        some = [line.removesuffix(b"\r") for line in lines[start : start + 1000]]
        bad = parse_messages(some).bad
        if bad:
            line_number = first_line + start + bad[0].index
            return f"{path}: line {line_number}: {bad[0].column}: {bad[0].reason}"
    return None
