"""What a file holds instead of rows, judged by its first line, and what to do about it."""

from __future__ import annotations

import codecs

from src.rows.criteo import COLUMNS, DENSE_COLUMNS, DENSE_SIZE, LABELS, ROW
from src.rows.line_blocks import MAX_LINE_BYTES
from src.rows.line_check import is_integer, line_fault
from src.rows.short_repr import short_repr

_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = {
    b",": "commas",
    b";": "semicolons",
    b"|": "vertical bars",
    b"\x01": "\\x01",
    b"\\t": "a backslash and a t",
    b" ": "blanks",
}
_REMOVE_IT = "remove it (tail -n +2)"
_CR_ALONE = "lines seem to end in CR alone: make them end in LF (tr '\\r' '\\n')"
_LEAST_SEPARATORS = 12
_COUNTED = [[b"%d" % number for number in range(first, first + len(COLUMNS))] for first in (0, 1)]
"""The headers of 40 columns without names. They would be rows if they stood elsewhere."""


def first_line_fault(line: bytes) -> str | None:
    """What is wrong with a file that begins with this line; None if the line is a row.

    It depends on the line alone. So a file whose first line is damaged is refused, though the
    others may be rows.

    Args:
        line: The first line without its line feed, or its first bytes if it is very long.
    """
    fault = binary_fault(line)
    if fault is not None:
        return fault
    line = line.removeprefix(codecs.BOM_UTF8).removesuffix(b"\r")
    if len(line) > MAX_LINE_BYTES:
        no_end = f"no line end in the first {MAX_LINE_BYTES:,} bytes: not a file of lines"
        return _CR_ALONE if b"\r" in line else no_end
    fields = line.split(b"\t")
    fault_of_row = line_fault(line)
    if fault_of_row is None:
        return _header(fields) if fields in _COUNTED else None
    if not line:
        return f"an empty line: {_REMOVE_IT}"
    if b"\r" in line:
        return _CR_ALONE
    column, reason = fault_of_row
    return (
        _separator_fault(line)
        or _header_fault(fields)
        or _quote_fault(fields)
        or _count_fault(fields)
        or (reason if column == ROW else f"{column}: {reason}") + _hint(line, fields, column)
    )


def fault_without_end(line: bytes) -> str | None:
    """What is wrong with a file that holds these bytes and no line feed; it may still grow."""
    return binary_fault(line) or (_CR_ALONE if b"\r" in line[:-1] else None)


def binary_fault(line: bytes) -> str | None:
    """What is wrong with a file whose first bytes these are and that holds no text of UTF-8."""
    if line.startswith(_UTF_32):
        return "UTF-32 text: make it UTF-8 (iconv -f UTF-32 -t UTF-8)"
    if line.startswith(_UTF_16):
        return "UTF-16 text: make it UTF-8 (iconv -f UTF-16 -t UTF-8)"
    if b"\x00" not in line:
        return None
    if line[257:262] == b"ustar":
        return "a tar archive: unpack it (tar -x)"
    if 2 * line.count(b"\x00") >= len(line) - 1 and len(line) > 1:
        end = "BE" if line.startswith(b"\x00") else "LE"
        return f"UTF-16 text: make it UTF-8 (iconv -f UTF-16{end} -t UTF-8)"
    if line.count(b"\t") == len(COLUMNS) - 1:
        return None  # a value may hold a NUL byte
    return "a binary file, not tab-separated lines"


def _separator_fault(line: bytes) -> str | None:
    """Another separator than a tab, or another format of lines."""
    if line.startswith((b"{", b"[")):
        return "JSON: write its rows as tab-separated lines"
    if line.lstrip().startswith(b"<"):
        return "HTML or XML: not a file of rows"
    if line.count(b"\t") > _LEAST_SEPARATORS:
        return None
    if line.count(b":") > _LEAST_SEPARATORS:
        return "libsvm's format or the like: write 40 tab-separated fields"
    count, name = max((line.count(mark), name) for mark, name in _SEPARATORS.items())
    if count > _LEAST_SEPARATORS:
        return f"fields separated by {name}: separate them by tabs"
    return None


def _header_fault(fields: list[bytes]) -> str | None:
    """Names of columns instead of values."""
    plain = [field.strip(b"\"' ") for field in fields]
    if len(plain) < len(COLUMNS) - 1 or any(map(_is_number, plain[: 1 + DENSE_SIZE])):
        return None
    if not any(plain[: 1 + DENSE_SIZE]):
        return None
    return _header(plain)


def _header(names: list[bytes]) -> str:
    first = ", ".join(name.decode(errors="replace")[:40] for name in names[:2])
    return f"a header ({first!r}, ...): {_REMOVE_IT}"


def _quote_fault(fields: list[bytes]) -> str | None:
    if any(field[:1] in (b'"', b"'") for field in fields[: 1 + DENSE_SIZE]):
        return f"fields in quotes ({short_repr(fields[0])}): write them without quotes"
    return None


def _count_fault(fields: list[bytes]) -> str | None:
    """A missing label, or columns too many."""
    if len(fields) == len(COLUMNS) - 1 and _is_row([LABELS[0], *fields]):
        return (
            f"{len(fields)} fields, the label is missing, as in Criteo's test files: "
            "use a file with labels, or put 0 or 1 and a tab before each line"
        )
    surplus = len(fields) - len(COLUMNS)
    if surplus > 0 and _is_row(fields[: len(COLUMNS)]):
        what = "a tab at the line's end" if not any(fields[len(COLUMNS) :]) else "more columns"
        return f"{len(fields)} fields, {what} after the row: remove them (cut -f1-{len(COLUMNS)})"
    if surplus > 0 and _is_row(fields[surplus:]):
        cut = f"cut -f{surplus + 1}-"
        return f"{len(fields)} fields, more columns before the row: remove them ({cut})"
    return None


def _hint(line: bytes, fields: list[bytes], column: str) -> str:
    """What may have happened to the line's only bad field, or to all fields of its kind."""
    if column not in COLUMNS or line.count(b"\t") != len(COLUMNS) - 1:
        return "; a row is a label, 13 integers and 26 strings, separated by tabs"
    field = fields[COLUMNS.index(column)]
    if field != field.strip():
        return "; write it without blanks"
    if column in DENSE_COLUMNS and _is_number(field):
        return "; write whole numbers, as 1 and not 1.0 or 1e3"
    if column == COLUMNS[0]:
        return "; the first field must be the label"
    return ""


def _is_row(fields: list[bytes]) -> bool:
    return line_fault(b"\t".join(fields)) is None


def _is_number(field: bytes) -> bool:
    if is_integer(field):
        return True
    try:
        float(field)
    except ValueError:
        return False
    return field.strip().lower() not in (b"nan", b"inf", b"infinity", b"-inf")
