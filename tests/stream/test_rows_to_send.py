"""The lines that the producer sends: not those sent before, not those that can't be sent."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest

from src.rows.bad_rows import BadLines
from src.rows.opened_file import OpenedFile, ReadStopped, RowFileError, never
from src.stream.rows_to_send import LastRow, NumberedLine, paced, rows_to_send


def sent(folder: Path, data: bytes, last: LastRow | None = None) -> list[NumberedLine]:
    (folder / "rows.tsv").write_bytes(data)
    with OpenedFile(folder / "rows.tsv") as file:
        return list(rows_to_send(file, last, BadLines(file.name), never))


def last(number: int, value: bytes | None) -> LastRow:
    return LastRow(number, value, 0, number + 5)


def test_line_ends_are_no_part_of_a_row_but_empty_last_fields_are(tmp_path: Path) -> None:
    assert sent(tmp_path, b"a\tb\r\nc\t\n\nd\n") == [
        (0, b"a\tb"),
        (1, b"c\t"),
        (2, b""),
        (3, b"d"),
    ]


def test_lines_that_cannot_be_sent_are_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = b"a\n" + b"x" * 2_000_000 + b"\nc\nd"
    assert sent(tmp_path, data) == [(0, b"a"), (2, b"c")]
    path = tmp_path / "rows.tsv"
    long, unended = caplog.messages
    assert long.startswith(f"bad row: {path}:2, row: 2,000,000 bytes, more than 1,048,576: b'xx")
    assert unended.startswith(f"bad row: {path}:4, row: no line end")


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_rows_that_were_sent_before_are_left_out(tmp_path: Path, compress: object) -> None:
    assert callable(compress)
    data = compress(b"a\nb\r\nc\n")
    assert sent(tmp_path, data, last(0, b"a")) == [(1, b"b"), (2, b"c")]
    assert sent(tmp_path, data, last(1, b"b")) == [(2, b"c")]
    assert sent(tmp_path, data, last(2, b"c")) == []


@pytest.mark.parametrize("value", [b"x", b"b\t", b"", None])
def test_a_file_whose_line_is_not_the_row_sent_last_is_refused(
    tmp_path: Path, value: bytes | None
) -> None:
    with pytest.raises(RowFileError) as refused:
        sent(tmp_path, b"a\nb\nc\n", last(1, value))
    assert str(refused.value) == (
        f"{tmp_path / 'rows.tsv'}, line 2: b'b' is not the row sent last, {value!r} (partition 0, "
        "offset 6): not the same file, or it was changed"
    )


def test_a_file_that_ends_before_the_row_sent_last_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RowFileError, match="only 3 rows, but 4 were sent before"):
        sent(tmp_path, b"a\nb\nc\n", last(3, b"d"))
    with pytest.raises(RowFileError, match="only 0 rows, but 4 were sent before"):
        sent(tmp_path, b"", last(3, b"d"))


def test_a_file_cut_off_within_the_row_sent_last_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RowFileError, match="line 3: no line end.* is not the row sent last"):
        sent(tmp_path, b"a\nb\nc", last(2, b"c"))


def test_an_empty_file_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert sent(tmp_path, b"") == []
    assert caplog.messages == [f"{tmp_path / 'rows.tsv'}: the file is empty"]


def test_a_stop_ends_the_reading(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_bytes(b"a\n")
    with OpenedFile(tmp_path / "rows.tsv") as file, pytest.raises(ReadStopped):
        list(rows_to_send(file, None, BadLines(file.name), lambda: True))


def test_rows_are_spread_over_the_time_that_the_rate_gives_them() -> None:
    began = time.monotonic()
    rows = [(number, b"x") for number in range(101)]
    moments = [time.monotonic() - began for _ in paced(rows, 200.0, never)]
    assert all(moment >= number / 200 - 0.051 for number, moment in enumerate(moments))
    assert moments[-1] < 5.0


def test_a_slow_pace_gives_way_to_a_stop() -> None:
    began = time.monotonic()
    rows = [(number, b"x") for number in range(9)]
    assert len(list(paced(rows, 0.01, lambda: time.monotonic() > began + 0.2))) == 1
    assert time.monotonic() - began < 5.0
