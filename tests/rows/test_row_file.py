"""Files read block by block: which lines become rows, and what is logged of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from examples.sample.rows import write_sample
from src.process.arrays import Array
from src.rows import row_file
from src.rows.bad_rows import MAX_LOGGED_BAD_ROWS
from src.rows.criteo import COLUMNS
from src.rows.opened_file import RowFileError
from src.rows.parsing import parse_messages
from src.rows.row_file import BLOCK_ROWS, parsed_blocks

ROWS = 23
BLOCK = 5
HEADER = "\t".join(COLUMNS).encode()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_file, "BLOCK_ROWS", BLOCK)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    path = tmp_path_factory.mktemp("rows") / "rows.tsv"
    write_sample([path], ROWS)
    return path.read_bytes().splitlines()


def file_of(folder: Path, lines: Sequence[bytes], end: bytes = b"\n") -> Path:
    path = folder / "clicks.tsv"
    path.write_bytes(b"".join(line + end for line in lines))
    return path


def rows_of(path: Path, skip: int = 0, limit: int | None = None) -> tuple[list[int], Array]:
    """How many lines each block has read, and the dense columns of all rows."""
    blocks = list(parsed_blocks(path, skip, limit))
    dense = [rows.numbers for _, rows in blocks]
    return [read for read, _ in blocks], np.concatenate(dense) if dense else np.empty((0, 13))


class TestBlocks:
    def test_are_of_4096_lines_and_a_last_one_of_the_rest(self, tmp_path: Path) -> None:
        path = tmp_path / "clicks.tsv"
        write_sample([path], 2 * BLOCK_ROWS + 1)
        read, dense = rows_of(path)
        assert read == [4096, 4096, 1]
        wanted = parse_messages(path.read_bytes().splitlines()).numbers
        np.testing.assert_array_equal(dense, wanted)

    @pytest.mark.parametrize(
        ("skip", "limit", "read"),
        [
            (0, None, [5, 5, 5, 5, 3]),
            (7, None, [5, 5, 5, 1]),
            (0, 12, [5, 5, 2]),
            (7, 12, [5, 5, 2]),
            (20, 12, [3]),
            (0, 0, []),
            (ROWS, None, []),
        ],
    )
    def test_begin_after_the_lines_left_out_and_end_at_the_limit(
        self,
        skip: int,
        limit: int | None,
        read: list[int],
        tmp_path: Path,
        lines: list[bytes],
        small_blocks: None,
    ) -> None:
        found, dense = rows_of(file_of(tmp_path, lines), skip, limit)
        assert found == read
        if read:
            wanted = parse_messages(lines[skip : skip + sum(read)]).numbers
            np.testing.assert_array_equal(dense, wanted)

    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_take_either_line_end(self, end: bytes, tmp_path: Path, lines: list[bytes]) -> None:
        ((read, rows),) = parsed_blocks(file_of(tmp_path, lines, end))
        assert (read, list(rows.bad)) == (ROWS, [])
        last = parse_messages(lines).categorical.astype(object)["C26"]
        assert rows.categorical.astype(object)["C26"].equals(last)

    def test_there_are_none_of_an_empty_file(self, tmp_path: Path) -> None:
        assert list(parsed_blocks(file_of(tmp_path, []))) == []

    def test_header_is_refused_with_the_name_of_the_file(
        self, tmp_path: Path, lines: list[bytes]
    ) -> None:
        path = file_of(tmp_path, [HEADER, *lines])
        with pytest.raises(RowFileError) as refused:
            next(parsed_blocks(path))
        assert str(refused.value).startswith(f"{path}, line 1: a header ('label, I1', ...)")
        assert sum(rows_of(path, skip=1)[0]) == ROWS

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(RowFileError, match="nowhere.tsv: No such file"):
            next(parsed_blocks(tmp_path / "nowhere.tsv"))


class TestBadRows:
    def test_are_logged_with_file_line_column_and_reason(
        self,
        tmp_path: Path,
        lines: list[bytes],
        small_blocks: None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        bad = list(lines)
        bad[3] = b"2" + bad[3][1:]
        bad[11] = b"too\tshort"
        path = file_of(tmp_path, bad)
        blocks = list(parsed_blocks(path, skip=2))
        assert caplog.messages == [
            f"bad row: {path}:4, label: not 0 or 1: b'2'",
            f"bad row: {path}:12, row: 2 fields, expected 40: b'too\\tshort'",
        ]
        assert [len(rows.bad) for _, rows in blocks] == [1, 1, 0, 0, 0]
        assert sum(len(rows.label) for _, rows in blocks) == ROWS - 2 - 2

    def test_of_all_blocks_only_the_first_ten_are_logged(
        self,
        tmp_path: Path,
        lines: list[bytes],
        small_blocks: None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        good = 3
        path = file_of(tmp_path, [*lines[:good], *[b"?"] * 17])
        assert sum(len(rows.bad) for _, rows in parsed_blocks(path)) == 17
        *messages, rest = caplog.messages
        named = [message.split(",")[0] for message in messages]
        assert rest == f"{path}: and 7 more bad rows, by column: {{'row': 7}}"
        first = good + 1
        assert named == [f"bad row: {path}:{first + place}" for place in range(MAX_LOGGED_BAD_ROWS)]

    def test_too_many_of_them_end_the_reading_at_the_line_that_is_too_much(
        self, tmp_path: Path, lines: list[bytes]
    ) -> None:
        path = file_of(tmp_path, [*lines, *[b"?"] * 3])
        assert len(list(parsed_blocks(path, max_bad_fraction=3e-4))) == 1
        with pytest.raises(RowFileError, match=r"clicks.tsv: a broken feed: 3 of the last 26 rows"):
            list(parsed_blocks(path, max_bad_fraction=2e-4))

    def test_include_a_last_line_without_its_end_though_it_looks_like_a_row(
        self, tmp_path: Path, lines: list[bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        path = file_of(tmp_path, lines)
        path.write_bytes(path.read_bytes()[:-3])
        ((read, rows),) = parsed_blocks(path)
        assert (read, len(rows.label), len(rows.bad)) == (ROWS, ROWS - 1, 1)
        assert f"bad row: {path}:{ROWS}, row: no line end" in caplog.text
        assert "end the file with a line feed" in caplog.text
