"""How pyarrow's CSV reader reads Criteo lines: tab-separated, no header, nothing quoted."""

from __future__ import annotations

import contextlib

import pyarrow as pa
import pyarrow.csv

from src.rows.criteo import CATEGORICAL_COLUMNS, COLUMNS, DENSE_COLUMNS, LABEL

# Otherwise pyarrow handles SIGTERM and SIGINT itself while it reads, and the read fails.
pa.enable_signal_handlers(False)

_PARSE_OPTIONS = pa.csv.ParseOptions(
    delimiter="\t", quote_char=False, escape_char=False, ignore_empty_lines=False
)


def read_options(block_size: int = 1 << 20) -> pa.csv.ReadOptions:
    """The column names, as a Criteo file has no header."""
    return pa.csv.ReadOptions(column_names=list(COLUMNS), block_size=block_size, use_threads=False)


def parse_options() -> pa.csv.ParseOptions:
    """Tab-separated, nothing quoted, nothing escaped."""
    return _PARSE_OPTIONS


def convert_options(categorical: pa.DataType | None = None) -> pa.csv.ConvertOptions:
    """Integers for the label and the dense columns; only the empty field is missing.

    Args:
        categorical: The type of ``C1..C26``; None for dictionary-encoded strings.
    """
    text = pa.dictionary(pa.int32(), pa.string()) if categorical is None else categorical
    types: dict[str, pa.DataType] = {column: text for column in CATEGORICAL_COLUMNS}
    types.update({column: pa.int64() for column in (LABEL, *DENSE_COLUMNS)})
    return pa.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)


def read_lines(data: bytes, categorical: pa.DataType | None = None) -> pa.Table:
    """Lines as typed columns.

    Args:
        data: The lines, each ended by a line feed.
        categorical: See ``convert_options``. With None each column is one chunk.

    Raises:
        pa.ArrowInvalid: A field does not fit its type.
    """
    options = convert_options(categorical)
    if not data:
        types = options.column_types
        return pa.table({column: pa.array([], type=types[column]) for column in COLUMNS})
    options.check_utf8 = not data.isascii()  # a tenth of the time
    if categorical is not None:
        # Many rows at once do not fit the processor's cache and take twice as long.
        with contextlib.suppress(pa.ArrowInvalid):  # a row may be longer than such a block
            return pa.csv.read_csv(pa.py_buffer(data), read_options(), parse_options(), options)
    return pa.csv.read_csv(
        pa.py_buffer(data), read_options(len(data) + 1), parse_options(), options
    )
