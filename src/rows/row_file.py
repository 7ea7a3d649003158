"""Criteo files read block by block, where no stream is needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from src.rows.criteo import ParsedRows, is_header
from src.rows.parsing import parse_messages

logger = logging.getLogger(__name__)

BLOCK_ROWS = 4096
MAX_LOGGED_BAD_ROWS = 10


class RowFileError(ValueError):
    """The file is not a Criteo file; one line says why."""


def parsed_blocks(
    path: Path, skip: int = 0, limit: int | None = None
) -> Iterator[tuple[int, ParsedRows]]:
    """(lines read, the rows among them) of a file, at most 4,096 lines at a time.

    The first ten bad rows are logged with file and line.

    Args:
        path: The file; the label comes first, there is no header.
        skip: Lines to leave out at its beginning.
        limit: The most lines to read, None for all.

    Raises:
        RowFileError: The first line is a header.
        OSError: The file can't be read.
    """
    bad_rows = 0
    with open(path, "rb") as file:
        lines = islice(file, skip, None if limit is None else skip + limit)
        first_line = skip + 1
        while block := [line.rstrip(b"\r\n") for line in islice(lines, BLOCK_ROWS)]:
            if first_line == 1 and is_header(block[0]):
                raise RowFileError(f"{path}: the first line is a header, none is wanted")
            parsed = parse_messages(block)
            for row in parsed.bad[: max(MAX_LOGGED_BAD_ROWS - bad_rows, 0)]:
                line = first_line + row.index
                logger.warning("bad row: %s:%d, %s: %s", path, line, row.column, row.reason)
            bad_rows += len(parsed.bad)
            yield len(block), parsed
            first_line += len(block)
