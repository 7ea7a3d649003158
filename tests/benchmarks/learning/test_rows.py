"""Which rows a comparison takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.learning.rows import LearningError, prepare
from examples.sample.rows import write_sample
from tests.benchmarks.learning.asked import HISTORY, asked


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clicks.tsv"
    write_sample([path], 780)
    return path


class TestRows:
    def test_of_a_file_are_all_the_whole_batches_after_the_history(
        self, data: Path, tmp_path: Path
    ) -> None:
        rows = prepare(asked(tmp_path, f"--data={data}"))
        assert (rows.path, rows.history, rows.stream) == (data, HISTORY, 500)
        assert rows.made.rows == HISTORY

    @pytest.mark.parametrize(("asked_for", "stream"), [(299, 200), (100, 100), (9999, 500)])
    def test_of_a_file_are_no_more_than_asked_for(
        self, asked_for: int, stream: int, data: Path, tmp_path: Path
    ) -> None:
        assert prepare(asked(tmp_path, f"--data={data}", f"--rows={asked_for}")).stream == stream

    @pytest.mark.parametrize("flags", [["--history_rows=681"], ["--history_rows=9999"]])
    def test_that_fill_no_batch_are_refused_with_the_file(
        self, flags: list[str], data: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(LearningError) as refused:
            prepare(asked(tmp_path, f"--data={data}", *flags))
        history = flags[0].split("=")[1]
        assert str(refused.value) == f"{data} has no 100 rows after the {history} of the history"

    def test_are_made_once_where_no_file_is_named(self, tmp_path: Path) -> None:
        flags = asked(tmp_path, "--rows=300")
        rows = prepare(flags)
        assert (rows.history, rows.stream) == (HISTORY, 300)
        assert len(rows.path.read_bytes().splitlines()) == HISTORY + 300
        written = rows.path.stat().st_mtime_ns
        assert prepare(flags).path.stat().st_mtime_ns == written
        assert prepare(asked(tmp_path, "--rows=400")).path != rows.path
