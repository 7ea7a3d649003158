"""Reads a Criteo file block by block, as columns. What is no row is named and left out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from src.rows.bad_rows import BadLines, BadRowGuard
from src.rows.opened_file import OpenedFile
from src.rows.parsing import parse_table
from src.rows.row_file import cut, with_faults

BLOCK_ROWS = 1 << 16


def read_blocks(
    file: OpenedFile, guard: BadRowGuard, lines: int | None = None, block_rows: int = BLOCK_ROWS
) -> Iterator[tuple[pa.Table, int]]:
    """Reads a Criteo file block by block.

    Args:
        file: The file, opened at its beginning.
        guard: Observes every line.
        lines: Stop after this many lines.
        block_rows: Lines of every block but the last.

    Yields:
        (the rows as columns, see ``parse_table``; how many lines were read for them).

    Raises:
        RowFileError: The file can't be read, or too many lines are no rows.
    """
    bad_lines = BadLines(file.name, guard)
    for block in cut(file.blocks(), block_rows, limit=lines):
        table, bad = parse_table(block.lines)
        bad_lines.observe(block.first, len(block.lines), with_faults(bad, block))
        yield table, len(block.lines)
    bad_lines.sum_up()
