"""Files, pipes and standard input: opened once, read once, and judged by their first line."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zstandard

from examples.services.common import ROOT
from src.rows.opened_file import (
    OpenedFile,
    ReadStopped,
    RowFileError,
    can_be_read_again,
    open_rows,
    refuse_one_pipe_twice,
)
from tests.rows.messages import PLAIN, with_field

LINES = [with_field("C1", b"%d" % number) for number in range(5_000)]
DATA = b"".join(line + b"\n" for line in LINES)
WAIT = 30.0


def lines_of(file: OpenedFile) -> list[bytes]:
    return [line for block in file.blocks() for line in block.lines]


def pipe_of(folder: Path, data: bytes, pause: float = 0.0) -> Path:
    """A named pipe into which a thread writes, opened once."""
    path = folder / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with open(path, "wb", buffering=0) as file:
            file.write(data[:100])
            time.sleep(pause)
            file.write(data[100:])

    threading.Thread(target=write, daemon=True).start()
    return path


def write_and_close(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb") as file:
        file.write(data)


def read_in_child(file: OpenedFile, answer: multiprocessing.connection.Connection) -> None:
    with file:
        answer.send(lines_of(file) == LINES)


@pytest.mark.parametrize(
    "data",
    [
        DATA,
        gzip.compress(DATA[:3000], mtime=0) + gzip.compress(DATA[3000:], mtime=0),
        zstandard.ZstdCompressor().compress(DATA),
    ],
    ids=["plain", "gzip", "zstd"],
)
@pytest.mark.parametrize("kind", ["file", "pipe", "slow pipe", "descriptor"])
def test_any_source_in_any_format_gives_the_same_lines(
    tmp_path: Path, data: bytes, kind: str
) -> None:
    path = tmp_path / "day_0.tsv"  # the name tells nothing
    if kind == "file" or kind == "descriptor":
        path.write_bytes(data)
    else:
        path = pipe_of(tmp_path, data, pause=0.3 if kind == "slow pipe" else 0.0)
    reader, writer = os.pipe()
    if kind == "descriptor":
        threading.Thread(target=write_and_close, args=(writer, data)).start()
        path = Path(f"/dev/fd/{reader}")
    with open_rows(path) as file:
        assert lines_of(file) == LINES
        assert file.bytes_read == len(data)
        assert file.size == (len(data) if kind == "file" else None)
    os.close(reader)
    if kind != "descriptor":
        os.close(writer)


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_another_process_goes_on_with_the_file_from_its_beginning(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "rows.tsv"
    if kind == "file":
        path.write_bytes(DATA)
    else:
        path = pipe_of(tmp_path, DATA)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with open_rows(path) as file:
        assert len(pickle.dumps(file._head)) < 1 << 15  # or the start would wait for the child
        child = context.Process(target=read_in_child, args=(file, there))
        child.start()
    assert here.poll(WAIT) and here.recv()
    child.join(WAIT)


def test_a_pipe_gives_a_line_as_soon_as_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    opened: list[OpenedFile] = []
    thread = threading.Thread(target=lambda: opened.append(open_rows(path)))
    thread.start()
    with open(path, "wb", buffering=0) as writer:
        writer.write(LINES[0] + b"\n" + LINES[1])
        thread.join(WAIT)
        blocks = opened[0].blocks()
        assert next(blocks).lines == [LINES[0]]
        writer.write(b"\n")
        assert next(blocks).lines == [LINES[1]]
    opened[0].close()


@pytest.mark.parametrize("writes", [False, True])
def test_waiting_for_a_pipe_gives_way_to_a_stop(tmp_path: Path, writes: bool) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    began = time.monotonic()
    keeper = os.open(path, os.O_RDWR) if writes else -1
    with pytest.raises(ReadStopped):
        open_rows(path, lambda: time.monotonic() > began + 0.3)
    assert time.monotonic() - began < 5
    if writes:
        os.close(keeper)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"label\tI1\n", "line 1: 2 fields, expected 40"),
        (PLAIN.replace(b"\t", b",") + b"\n", "line 1: fields separated by commas"),
        (PLAIN.decode().encode("utf-16"), "line 1: UTF-16 text"),
        (b"PK\x03\x04" + b"x" * 50, "a zip file"),
        (gzip.compress(DATA, mtime=0)[:20], "the gzip data end too early"),
        (
            gzip.compress(PLAIN.replace(b"\t", b";") + b"\n", mtime=0),
            "line 1: fields separated by semicolons",
        ),
        (b"x" * 3_000_000, "line 1: no line end in the first 1,048,576 bytes"),
    ],
)
def test_what_cannot_be_read_is_named_at_once(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "rows.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RowFileError) as refused:
        open_rows(path)
    assert str(refused.value).startswith(f"{path}")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_is_refused_and_an_empty_file_holds_no_line(tmp_path: Path) -> None:
    with pytest.raises(RowFileError, match="is a directory"):
        open_rows(tmp_path)
    (tmp_path / "rows.tsv").touch()
    with open_rows(tmp_path / "rows.tsv") as file:
        assert lines_of(file) == []


@pytest.mark.parametrize("data", [PLAIN[:-2], b"labe", b"\xef\xbb\xbf"])
def test_a_first_line_that_is_not_complete_is_not_judged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.tsv").write_bytes(data)
    with open_rows(tmp_path / "rows.tsv") as file:
        (block,) = file.blocks()
    assert "no line end" in block.faults[0]


def test_what_is_damaged_further_on_is_named_when_it_is_met(tmp_path: Path) -> None:
    path = tmp_path / "day_0.gz"
    path.write_bytes(gzip.compress(DATA, mtime=0)[:-30])
    with open_rows(path) as file, pytest.raises(RowFileError, match=r"day_0.gz: the gzip data end"):
        lines_of(file)


def test_a_pipe_is_read_only_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    (tmp_path / "rows.tsv").write_bytes(DATA)
    assert not can_be_read_again("-")
    assert not can_be_read_again(path)
    assert can_be_read_again(tmp_path / "rows.tsv")
    assert can_be_read_again(tmp_path / "gone.tsv")
    pipes = [OpenedFile(path), OpenedFile(path)]
    with pytest.raises(RowFileError, match="pipe: named twice, and a pipe can be read only"):
        refuse_one_pipe_twice(pipes)
    files = [OpenedFile(tmp_path / "rows.tsv"), OpenedFile(tmp_path / "rows.tsv")]
    refuse_one_pipe_twice(files)
    for file in (*pipes, *files):
        file.close()


@pytest.mark.parametrize("is_long", [False, True])
def test_lines_that_end_in_cr_alone_are_named(tmp_path: Path, is_long: bool) -> None:
    path = tmp_path / "mac.tsv"
    path.write_bytes(DATA[: None if is_long else 1_000].replace(b"\n", b"\r"))
    with pytest.raises(RowFileError, match="line 1: lines seem to end in CR alone"):
        open_rows(path)


def test_a_closed_standard_input_is_named_and_no_other_file_read_for_it() -> None:
    code = (
        "import os; from src.process.logs import configure_logging\n"
        "from src.rows.opened_file import OpenedFile\n"
        "configure_logging(); assert os.readlink('/proc/self/fd/0') == '/dev/null'\n"
        "OpenedFile('-')"
    )
    command = ["bash", "-c", f'exec "{sys.executable}" -c "$0" <&-', code]
    ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert ended.stderr.endswith("RowFileError: standard input is closed\n")


def test_a_terminal_is_named(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = os.openpty()
    with OpenedFile(f"/dev/fd/{theirs}"):
        assert "is a terminal: type rows" in caplog.text
    os.close(ours)
    os.close(theirs)


def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes(DATA)
    with open_rows(path) as file:
        blocks = file.blocks()
        next(blocks)
        os.truncate(path, 100)
        with pytest.raises(RowFileError, match=r"rows\.tsv: became shorter while it was read"):
            list(blocks)


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes(DATA)
    with open_rows(path) as file:
        path.rename(tmp_path / "rows.tsv.1")
        path.write_bytes(b"other\n")
        assert lines_of(file) == LINES
