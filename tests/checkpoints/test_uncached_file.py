"""Bytes come to the disk as they are, past the page cache where the file system can."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c

from src.checkpoints.uncached_file import (
    BLOCK_BYTES,
    BUFFER_BYTES,
    PIECE_BYTES,
    new_uncached_file,
)
from src.process.arrays import Array


def some_bytes(count: int) -> Array:
    return np.random.default_rng(count).integers(0, 256, count, np.uint8)


def write(path: Path, pieces: Sequence[Array]) -> None:
    with new_uncached_file(path) as file:
        for piece in pieces:
            file.append(piece)
        file.finish()
    content = b"".join(piece.tobytes() for piece in pieces)
    assert path.read_bytes() == content
    assert (file.bytes, file.checksum) == (len(content), crc32c(content))


def knows_direct_writes(folder: Path) -> bool:
    try:
        os.close(os.open(folder / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def is_cached(path: Path) -> bool:
    with open(path, "rb", buffering=0) as file:
        try:
            return os.preadv(file.fileno(), [bytearray(BLOCK_BYTES)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False


SIZES = [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, BUFFER_BYTES - 1, BUFFER_BYTES, 3 * BUFFER_BYTES + 5]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_holds_what_was_appended(size: int, tmp_path: Path) -> None:
    write(tmp_path / "file", [some_bytes(size)])


def test_pieces_of_all_sizes_follow_each_other(tmp_path: Path) -> None:
    write(tmp_path / "file", [some_bytes(size) for size in (3, 0, BUFFER_BYTES, 70_001, 1, *SIZES)])


def address(data: Any) -> int:
    return np.frombuffer(data, np.uint8).ctypes.data


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES + BLOCK_BYTES, 2 * BUFFER_BYTES + 5])
@pytest.mark.parametrize("shift", [0, 1])
def test_what_lies_in_its_block_as_in_the_file_is_written_from_where_it_is(
    size: int, shift: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, end = some_bytes(37), some_bytes(BLOCK_BYTES + 11)
    memory = some_bytes(size + 2 * BLOCK_BYTES)
    begin = (len(header) - memory.ctypes.data) % BLOCK_BYTES + shift
    content = memory[begin : begin + size]
    real_write, from_there = os.write, 0

    def counting(descriptor: int, data: memoryview) -> int:
        nonlocal from_there
        written = real_write(descriptor, data)
        if memory.ctypes.data <= address(data) < memory.ctypes.data + len(memory):
            from_there += written
        return written

    monkeypatch.setattr("src.checkpoints.uncached_file.os.write", counting)
    write(tmp_path / "file", [header, content, end])
    if shift or size < PIECE_BYTES:
        assert from_there == 0
    else:
        assert size - 2 * BLOCK_BYTES < from_there <= size


def test_nothing_of_it_is_in_the_page_cache_where_the_file_system_can(tmp_path: Path) -> None:
    content = some_bytes(2 * BUFFER_BYTES)
    with new_uncached_file(tmp_path / "file") as file:
        file.append(content)
        file.finish()
    assert is_cached(tmp_path / "file") != knows_direct_writes(tmp_path)
    (tmp_path / "other").write_bytes(content.tobytes())
    assert is_cached(tmp_path / "other")


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileExistsError), new_uncached_file(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "old"


def test_a_file_system_that_refuses_to_open_it_gets_it_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def refusing(path: Any, flags: int, *rest: Any) -> int:
        descriptor = real_open(path, flags & ~os.O_DIRECT, *rest)
        if flags & os.O_DIRECT:  # as Linux does it: the file is there by then
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return descriptor

    monkeypatch.setattr("src.checkpoints.uncached_file.os.open", refusing)
    write(tmp_path / "file", [some_bytes(BUFFER_BYTES + 7)])


def test_a_file_system_that_refuses_a_write_gets_it_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write
    refused: list[int] = []

    def refusing(descriptor: int, data: memoryview) -> int:
        if not refused:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(descriptor, data[: BLOCK_BYTES + 1])  # and writes little at a time

    monkeypatch.setattr("src.checkpoints.uncached_file.os.write", refusing)
    if not knows_direct_writes(tmp_path):
        with pytest.raises(OSError, match="Invalid argument"):
            write(tmp_path / "file", [some_bytes(BUFFER_BYTES + 7)])
        return
    write(tmp_path / "file", [some_bytes(BUFFER_BYTES + 7)])
    assert refused


def test_an_error_of_the_disk_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("src.checkpoints.uncached_file.os.write", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file", [some_bytes(5)])
