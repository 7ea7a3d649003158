"""Which lines of a file the producer sends, and when."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Callable

from src.rows.bad_rows import BadLines
from src.rows.criteo import ROW, BadRow
from src.rows.line_blocks import LineBlock
from src.rows.opened_file import OpenedFile, ReadStopped, RowFileError
from src.rows.short_repr import short_repr

logger = logging.getLogger(__name__)

RATE_SLICE_SECONDS = 0.05

NumberedLine = tuple[int, bytes]
"""(the line's number in its file, from 0 on; the line without its end)."""


@dataclass(frozen=True)
class LastRow:
    """The row that was sent last.

    Attributes:
        number: Its line's number in the file, from 0 on.
        value: Its message's value.
        partition: Where it is.
        offset: Where it is.
    """

    number: int
    value: bytes | None
    partition: int
    offset: int


def rows_to_send(
    file: OpenedFile, last: LastRow | None, passed_over: BadLines, stopped: Callable[[], bool]
) -> Iterator[NumberedLine]:
    """The lines that can be sent, those that were sent before left out.

    Args:
        file: The file, at its beginning.
        last: The row that was sent last; None to begin with the first one.
        passed_over: Takes the lines that can't be sent.
        stopped: Whether to end early.

    Raises:
        RowFileError: The file can't be read, or the row sent last is not in its place.
        ReadStopped: ``stopped`` said so.
    """
    next_number = 0 if last is None else last.number + 1
    lines = 0
    for block in file.blocks(stopped):
        if stopped():
            raise ReadStopped
        first = block.first - 1
        lines = first + len(block.lines)
        if last is not None and first <= last.number < lines:
            _check_same(file, last, block)
        left_out = max(next_number - first, 0)
        if left_out >= len(block.lines):
            continue
        block = block.part(left_out, len(block.lines)) if left_out else block
        if not block.faults:
            yield from enumerate(block.lines, block.first - 1)
            continue
        bad = [BadRow(place, ROW, reason) for place, reason in block.faults.items()]
        passed_over.observe(block.first, len(block.lines), bad)
        for place, line in enumerate(block.lines):
            if place not in block.faults:
                yield block.first - 1 + place, line
    if not lines and not next_number:
        logger.warning("%s: the file is empty", file.name)
    if lines < next_number:
        raise RowFileError(
            f"{file.name}: only {lines} rows, but {next_number} were sent before: not the same file"
        )


def _check_same(file: OpenedFile, last: LastRow, block: LineBlock) -> None:
    place = last.number - (block.first - 1)
    line = block.lines[place]
    if place in block.faults or line != last.value:
        what = block.faults.get(place, short_repr(line))
        raise RowFileError(
            f"{file.name}, line {last.number + 1}: {what} is not the row sent last, "
            f"{short_repr(last.value)} (partition {last.partition}, offset {last.offset}): not the "
            "same file, or it was changed"
        )


def paced(
    rows: Iterable[NumberedLine], rate: float, stopped: Callable[[], bool]
) -> Iterator[NumberedLine]:
    """The rows, no faster than ``rate`` a second, 0 for no limit; it ends early at a stop."""
    if not rate:
        yield from rows
        return
    began = time.monotonic()
    for number, row in enumerate(rows):
        while (ahead := number / rate - (time.monotonic() - began)) > 0 and not stopped():
            if ahead <= RATE_SLICE_SECONDS:
                break
            time.sleep(min(ahead, RATE_SLICE_SECONDS))
        if stopped():
            return
        yield row
