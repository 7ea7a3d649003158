"""The flags, and what happens where a file cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.learning.__main__ import main, parse_args
from benchmarks.learning.ways import WAYS
from tests.benchmarks.learning.asked import HISTORY


class TestFlags:
    @pytest.mark.parametrize("name", ["rows", "history_rows"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_that_are_not_positive_are_refused_by_name(
        self, name: str, value: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            parse_args([f"--{name}={value}"])
        assert stopped.value.code == 2
        assert f"--{name} must be positive" in capsys.readouterr().err

    def test_ask_for_all_ways_unless_some_are_named(self) -> None:
        assert tuple(parse_args([]).ways) == WAYS
        assert parse_args(["--ways", "adaptive", "sparse"]).ways == ["adaptive", "sparse"]


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"1\t2\n", "clicks.tsv"),
        (b"", "clicks.tsv has no 100 rows after the 250 of the history"),
    ],
)
def test_file_that_cannot_be_used_is_named_and_nothing_is_run(
    content: bytes | None, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "clicks.tsv"
    if content is not None:
        data.write_bytes(content * 400)
    work = f"--work_dir={tmp_path / 'work'}"
    assert main([f"--data={data}", f"--history_rows={HISTORY}", work]) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert said in line and str(data) in line
