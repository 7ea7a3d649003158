"""Pieces of bytes become blocks of whole lines, in bounded memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from src.rows.short_repr import short_repr

MAX_LINE_BYTES = 1 << 20
"""A longer line is a bad row. Kafka's default limit of a message is about the same."""
_SHOWN_BYTES = 100


@dataclass
class LineBlock:
    """Consecutive lines of a file, without their ends.

    Attributes:
        first: The first line's number in the file, from 1 on.
        lines: The lines. One that can't be a row is empty here.
        faults: A line's place in ``lines`` → why it can't be a row.
    """

    first: int
    lines: list[bytes] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)

    def part(self, begin: int, end: int) -> LineBlock:
        """The lines from place ``begin`` up to, but not including, ``end``."""
        faults = {
            place - begin: reason for place, reason in self.faults.items() if begin <= place < end
        }
        return LineBlock(self.first + begin, self.lines[begin:end], faults)

    def append(self, other: LineBlock) -> None:
        """Adds the lines that follow these in the file."""
        self.faults.update(
            (len(self.lines) + place, reason) for place, reason in other.faults.items()
        )
        self.lines += other.lines


def line_blocks(pieces: Iterable[bytes]) -> Iterator[LineBlock]:
    """The lines of a file, as soon as they are complete.

    Only a line feed ends a line; one carriage return before it belongs to the end. A byte order
    mark at the beginning of the file is left out. A last line without its end may not be
    complete, and a line may be too long: such a line has a fault.

    Args:
        pieces: The file's bytes.

    Yields:
        Blocks of at least one line.
    """
    number, begun, lost = 1, b"", 0
    for piece in pieces:
        end = piece.rfind(b"\n") + 1
        if not end:
            begun += piece
            if lost or len(begun) > MAX_LINE_BYTES + 1:  # + 1, as it may end with CR
                begun, lost = begun[:_SHOWN_BYTES], lost + max(len(begun) - _SHOWN_BYTES, 0)
            continue
        block = _block(begun + piece[: end - 1], number, lost)
        yield block
        number += len(block.lines)
        begun, lost = piece[end:], 0
    if begun:
        reason = f"no line end, so it may not be complete: {short_repr(begun[:_SHOWN_BYTES])}"
        yield LineBlock(number, [b""], {0: f"{reason}; end the file with a line feed"})


def _block(data: bytes, first: int, lost: int) -> LineBlock:
    """Lines that are ended by line feeds, the last one's left out.

    Args:
        data: The lines.
        first: The number of the first one.
        lost: How many bytes of the first one are missing, because it is too long.
    """
    if first == 1:
        data = data.removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\n")
    if b"\r" in data:
        lines = [line.removesuffix(b"\r") for line in lines]
    block = LineBlock(first, lines)
    if len(data) > MAX_LINE_BYTES or lost:
        for place, line in enumerate(lines):
            length = len(line) + (0 if place else lost)
            if length > MAX_LINE_BYTES:
                reason = f"{length:,} bytes, more than {MAX_LINE_BYTES:,}"
                block.faults[place] = f"{reason}: {short_repr(line[:_SHOWN_BYTES])}"
                lines[place] = b""
    return block
