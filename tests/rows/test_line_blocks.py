"""Lines are the same however the bytes come; those that can't be rows are named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.rows import line_blocks as module
from src.rows.line_blocks import LineBlock, line_blocks
from src.rows.row_file import cut


def joined(data: bytes, size: int) -> LineBlock:
    """All lines of a file that comes in pieces of a size."""
    found = LineBlock(1)
    for block in line_blocks(data[begin : begin + size] for begin in range(0, len(data), size)):
        assert block.first == len(found.lines) + 1
        assert block.lines
        found.append(block)
    return found


@pytest.fixture
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 10)
    monkeypatch.setattr(module, "_SHOWN_BYTES", 4)


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"\x0b", b"\x1c", b"\x00"])))
def test_only_a_line_feed_ends_a_line_and_one_return_before_it_belongs_to_it(
    parts: list[bytes],
) -> None:
    data = b"".join(parts)
    *wanted, rest = data.split(b"\n")
    lines = [line[:-1] if line.endswith(b"\r") else line for line in wanted]
    for size in (1, 3, 1000):
        found = joined(data, size)
        assert found.lines == lines + ([b""] if rest else [])
        assert list(found.faults) == ([len(lines)] if rest else [])


def test_separators_of_other_alphabets_are_no_line_ends() -> None:
    text = "a\u2028b\u0085c\x0bd\x0ce\x1cf\n".encode()
    assert joined(text, 3).lines == [text[:-1]]


def test_a_byte_order_mark_is_left_out_at_the_beginning_only() -> None:
    mark = b"\xef\xbb\xbf"
    for size in (1, 1000):
        assert joined(mark + b"a\n" + mark + b"b\n", size).lines == [b"a", mark + b"b"]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_line_that_is_too_long_is_a_fault_and_the_next_one_is_read(
    size: int, short_lines: None
) -> None:
    lines = [b"1" * 10, b"2" * 11, b"3", b"4" * 500, b"5" * 10]
    found = joined(b"".join(line + b"\n" for line in lines), size)
    assert found.lines == [lines[0], b"", b"3", b"", lines[4]]
    assert found.faults == {
        1: "11 bytes, more than 10: b'2222'",
        3: "500 bytes, more than 10: b'4444'",
    }
    same = joined(b"".join(line + b"\r\n" for line in lines), size)
    assert (same.lines, list(same.faults)) == (found.lines, [1, 3])


def test_a_line_without_an_end_takes_little_memory() -> None:
    piece = b"x" * (1 << 20)

    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield piece
        yield b"\n1\n"

    (block,) = line_blocks(pieces())
    assert block.lines == [b"", b"1"]
    assert block.faults[0].startswith("209,715,200 bytes, more than 1,048,576: b'xxx")
    assert len(block.faults[0]) < 200


def test_a_last_line_without_its_end_is_a_fault(short_lines: None) -> None:
    for size in (1, 1000):
        found = joined(b"a\nbcdefg", size)
        assert found.lines == [b"a", b""]
        assert found.faults[1].startswith("no line end, so it may not be complete: b'bcde'")


@given(
    st.lists(st.integers(1, 5), max_size=6),
    st.integers(1, 7),
    st.integers(0, 8),
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_blocks_can_be_cut_anew(sizes: list[int], size: int, skip: int, limit: int | None) -> None:
    whole = LineBlock(1)
    blocks = []
    for length in sizes:
        lines = [b"%d" % (len(whole.lines) + place) for place in range(length)]
        block = LineBlock(len(whole.lines) + 1, lines, {length - 1: lines[-1].decode()})
        blocks.append(block)
        whole.append(block.part(0, length))
    found = list(cut(iter(blocks), size, skip, limit))
    assert [len(block.lines) for block in found[:-1]] == [size] * (len(found) - 1)
    wanted = whole.lines[skip:] if limit is None else whole.lines[skip : skip + limit]
    assert [line for block in found for line in block.lines] == wanted
    for block in found:
        assert 0 < len(block.lines) <= size
        for place, reason in block.faults.items():
            assert block.lines[place] == reason.encode()
            assert int(reason) == block.first - 1 + place
    named = [reason for block in found for reason in block.faults.values()]
    assert named == [line.decode() for line in wanted if line.decode() in whole.faults.values()]


def test_no_more_blocks_are_taken_than_needed() -> None:
    def blocks() -> Iterator[LineBlock]:
        yield LineBlock(1, [b"a", b"b"])
        raise AssertionError("read on")

    assert [block.lines for block in cut(blocks(), 10, limit=2)] == [[b"a", b"b"]]
    assert list(cut(blocks(), 10, limit=0)) == []
