"""Which lines are rows: a quick check of many lines, and an exact one that names the fault."""

from __future__ import annotations

import re

import numpy as np

from src.process.arrays import Array
from src.rows.criteo import COLUMNS, DENSE_COLUMNS, DENSE_SIZE, LABEL, LABELS, ROW
from src.rows.short_repr import short_repr

TOMBSTONE = "no value (a tombstone)"
_TAB = ord("\t")
# The CSV reader trims blanks around a number and reads hexadecimal ones. All else it refuses.
READ_IN_NUMBERS = (b" ", b"x", b"X")
_ONE_IF_FOREIGN = bytes(byte not in b"0123456789-\t" for byte in range(256))
# Eighteen digits always fit 64 bits. ``is_integer`` decides about longer numbers.
_PLAIN_NUMBERS = re.compile(rb"[01]\t(?:(?:-?[0-9]{1,18})?\t){13}")
_INTEGER = re.compile(rb"-?[0-9]+")
_INT64 = np.iinfo(np.int64)


def may_be_read(data: bytes, rows: int) -> bool:
    """Whether the CSV reader decides right about lines: if it can read them, all of them are rows.

    The reader refuses fields that are too many or too few, and what is no number. But it takes an
    empty line for a row, skips a byte order mark, and reads ``" 1"`` and ``0x10``. Whether a line
    is a row must not depend on its neighbours, so this check comes first. It may say no to rows,
    never yes to what is none.

    Args:
        data: The lines, each ended by a line feed.
        rows: The number of lines.
    """
    if b"\r" in data:
        return False
    buffer = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(buffer == ord("\n"))
    if ends.size != rows:
        return False
    starts = np.concatenate(([0], ends + 1))[:rows]
    if (buffer[starts] & 0xFE != ord("0")).any() or (buffer[starts + 1] != _TAB).any():
        return False
    if not any(character in data for character in READ_IN_NUMBERS):
        return True
    return _are_numbers_plain(data, starts, ends)


def _are_numbers_plain(data: bytes, starts: Array, ends: Array) -> bool:
    """Whether labels and dense fields hold nothing but digits and minus signs.

    Args:
        data: The lines.
        starts: Where each of them begins.
        ends: Where its line feed is.
    """
    tabs_at = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _TAB)
    if tabs_at.size != len(starts) * (len(COLUMNS) - 1):
        return False
    tabs_at = tabs_at.reshape(len(starts), len(COLUMNS) - 1)
    # The total is right. So each line's count is right if its last tab comes before its end.
    if (tabs_at[:, -1] > ends).any() or (tabs_at[:, 0] != starts + 1).any():
        return False
    pieces = np.column_stack((starts, tabs_at[:, DENSE_SIZE])).ravel()
    is_foreign = np.frombuffer(data.translate(_ONE_IF_FOREIGN), dtype=np.uint8)
    foreign = np.bitwise_or.reduceat(is_foreign, pieces)
    return not foreign[::2].any()


def line_fault(line: bytes | None) -> tuple[str, str] | None:
    """(column, reason) of the first thing wrong with a line, or None if it is a row."""
    if line is None:
        return ROW, TOMBSTONE
    if b"\n" in line or b"\r" in line:
        return ROW, f"a line break within the row: {short_repr(line)}"
    tabs = line.count(b"\t")
    if tabs != len(COLUMNS) - 1:
        return ROW, f"{tabs + 1} fields, expected {len(COLUMNS)}: {short_repr(line)}"
    if not _PLAIN_NUMBERS.match(line):
        label, *fields = line.split(b"\t", DENSE_SIZE + 1)
        if label not in LABELS:
            return LABEL, f"not 0 or 1: {short_repr(label)}"
        for column, field in zip(DENSE_COLUMNS, fields):
            if field and not is_integer(field):
                return column, f"not a 64-bit integer: {short_repr(field)}"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        place = line.count(b"\t", 0, error.start)
        field = line.split(b"\t")[place]
        return COLUMNS[place], f"not UTF-8: {short_repr(field)}"
    return None


def is_integer(field: bytes) -> bool:
    """Whether a field is a decimal integer that fits 64 bits."""
    return integer(field) is not None


def integer(field: bytes) -> int | None:
    """The decimal integer that a field holds; None if it holds none, or none that fits 64 bits."""
    if not _INTEGER.fullmatch(field):
        return None
    # Python refuses to convert some thousand digits. Twenty significant ones are already too many.
    digits = field.lstrip(b"-").lstrip(b"0")
    if len(digits) > 19:
        return None
    number = int(digits or b"0") * (-1 if field.startswith(b"-") else 1)
    return number if _INT64.min <= number <= _INT64.max else None
