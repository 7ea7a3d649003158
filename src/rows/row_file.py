"""Criteo files read block by block, where no stream is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from src.process.files import PathLike
from src.rows.bad_rows import DEFAULT_MAX_BAD_FRACTION, BadLines, BadRowGuard
from src.rows.criteo import ROW, BadRow, ParsedRows
from src.rows.line_blocks import LineBlock
from src.rows.opened_file import OpenedFile, open_rows
from src.rows.parsing import parse_messages

BLOCK_ROWS = 4096


def parsed_blocks(
    path: PathLike,
    skip: int = 0,
    limit: int | None = None,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
) -> Iterator[tuple[int, ParsedRows]]:
    """(lines read, the rows among them) of a file, at most 4,096 lines at a time.

    Bad rows are left out. The first ten are logged with file and line.

    Args:
        path: See ``OpenedFile``; the label comes first, there is no header.
        skip: Lines to leave out at its beginning.
        limit: The most lines to read, None for all.
        max_bad_fraction: See ``BadRowGuard``.

    Raises:
        RowFileError: The file can't be read, its first line is not a row and not left out, or too
            many rows are bad.
    """
    with OpenedFile(path) if skip else open_rows(path) as file:
        bad = BadLines(file.name, BadRowGuard(max_bad_fraction))
        for block in cut(file.blocks(), BLOCK_ROWS, skip, limit):
            parsed = parse_messages(block.lines)
            parsed = replace(parsed, bad=with_faults(parsed.bad, block))
            bad.observe(block.first, len(block.lines), parsed.bad)
            yield len(block.lines), parsed
        bad.sum_up()


def cut(
    blocks: Iterable[LineBlock], size: int, skip: int = 0, limit: int | None = None
) -> Iterator[LineBlock]:
    """The same lines in blocks of ``size`` and a last one of the rest.

    Args:
        blocks: Consecutive ones; no more are taken than needed.
        size: Lines of a block.
        skip: Lines to leave out at the beginning.
        limit: The most lines, None for all.
    """
    left = limit
    waiting: LineBlock | None = None
    for block in blocks if left != 0 else ():
        if skip:
            left_out = min(skip, len(block.lines))
            skip -= left_out
            if left_out == len(block.lines):
                continue
            block = block.part(left_out, len(block.lines))
        if left is not None:
            block = block.part(0, left)
            left -= len(block.lines)
        if waiting is None:
            waiting = block
        else:
            waiting.append(block)
        whole = len(waiting.lines) - len(waiting.lines) % size
        for begin in range(0, whole, size):
            yield waiting.part(begin, begin + size)
        waiting = waiting.part(whole, len(waiting.lines)) if whole else waiting
        if left == 0:
            break
    if waiting is not None and waiting.lines:
        yield waiting


def with_faults(bad: Iterable[BadRow], block: LineBlock) -> list[BadRow]:
    """The bad rows among a block's lines, with the block's own reasons where it has any."""
    return [
        BadRow(row.index, ROW, block.faults[row.index]) if row.index in block.faults else row
        for row in bad
    ]
