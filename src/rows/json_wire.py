"""The JSON wire of the original example: lines to messages, and messages to lines.

A message's key is the JSON list of the column names, its value the JSON list of the 40 fields.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.process.arrays import Array
from src.rows.criteo import COLUMNS, DENSE_SIZE, LABELS, ROW, BadRow
from src.rows.line_check import TOMBSTONE, integer
from src.rows.short_repr import short_repr

_KEY = json.dumps(list(COLUMNS)).encode()


def json_message(line: bytes) -> tuple[bytes, bytes]:
    """(key, value) of one line on the JSON wire.

    The label and the dense columns become numbers. A missing number is NaN, a missing string null.
    A field that should be a number but is not stays a string, so that the reader names the same
    fault as in the line.

    Raises:
        UnicodeDecodeError: The line is not UTF-8.
    """
    fields = line.decode().split("\t")
    label = int(fields[0]) if fields[0].encode() in LABELS else fields[0]
    numbers = [_json_number(text) for text in fields[1 : 1 + DENSE_SIZE]]
    strings = [text or None for text in fields[1 + DENSE_SIZE :]]
    return _KEY, json.dumps([label, *numbers, *strings]).encode()


def line_from_fields(fields: Sequence[Any]) -> bytes:
    """One tab-separated line from 40 field values; None and NaN are missing.

    Raises:
        ValueError: There are not 40 fields, or one of them holds a tab or a line break, is neither
            a string nor a finite number, or can't be written as UTF-8.
    """
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} fields, expected {len(COLUMNS)}: {short_repr(fields)}")
    texts = list(map(_field_text, fields))
    line = "\t".join(texts)
    if line.count("\t") != len(COLUMNS) - 1 or "\n" in line or "\r" in line:
        for column, text in zip(COLUMNS, texts):
            if any(mark in text for mark in "\t\n\r"):
                raise ValueError(f"{column} holds a tab or a line break: {short_repr(text)}")
    return line.encode()


def lines_from_json(values: Sequence[bytes | None], bad: list[BadRow]) -> tuple[list[bytes], Array]:
    """JSON values as lines, one by one as this wire has one row a message.

    Args:
        values: The raw values.
        bad: Takes those that can't be written as a line.

    Returns:
        (lines, int64[lines]: each line's place in ``values``).
    """
    lines: list[bytes] = []
    index: list[int] = []
    for place, value in enumerate(values):
        if value is None:
            bad.append(BadRow(place, ROW, TOMBSTONE))
            continue
        try:
            fields = json.loads(value)
            if not isinstance(fields, list):
                raise ValueError(f"not a JSON list: {short_repr(value)}")
            lines.append(line_from_fields(fields))
            index.append(place)
        except (ValueError, RecursionError) as error:
            bad.append(BadRow(place, ROW, f"{error}"))
    return lines, np.asarray(index, dtype=np.int64)


def _json_number(text: str) -> float | int | str:
    if not text:
        return math.nan
    exact = integer(text.encode())
    if exact is None:
        return text
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
    raise ValueError(f"a field is neither a string nor a finite number: {short_repr(field)}")
