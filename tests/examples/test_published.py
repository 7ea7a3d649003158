from __future__ import annotations

import logging
from pathlib import Path

import pytest

from examples.published import main
from src.publishing.chain import read_current
from src.publishing.version_format import WEIGHTS
from tests.publishing.made import write_chain

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_chain(tmp_path, (10, 20, 30))
    return tmp_path


def call(command: str, folder: Path, *flags: str) -> int:
    return main([command, f"--publish_path={folder}", *flags])


def test_list_shows_each_version_and_which_is_served(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("list", folder) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.split()[:2] == ["version", "kind"]
    assert [line.split()[:2] for line in lines] == [
        ["10-0123abcd", "full"],
        ["20-0123abcd", "delta"],
        ["*", "30-0123abcd"],
    ]
    assert "2023-11-14 22:13:20" in lines[0] and "0.7000" in lines[0]


def test_list_shows_what_is_pinned_and_what_can_t_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("rollback", folder, "--to=10") == 0
    (folder / "20-0123abcd" / "manifest.json").write_bytes(b"")
    assert call("list", folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "20-0123abcd: " in lines[1] and "manifest.json is damaged" in lines[1]
    assert lines[2].startswith("*  10-0123abcd")
    assert lines[-1] == "pinned to 10-0123abcd: resume serves the newest version again"


def test_verify_is_0_where_all_is_whole_and_1_where_something_is_not(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("verify", folder) == 0
    path = folder / "20-0123abcd" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-4])
    assert call("verify", folder) == 1
    text = capfd.readouterr().err
    assert "3 versions, 0 of them broken" in text and "3 versions, 2 of them broken" in text
    assert f"20-0123abcd: {path} has" in text
    assert "30-0123abcd: version 20-0123abcd before it is broken" in text


def test_rollback_and_resume(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("rollback", folder, "--to=20") == 0
    pinned = read_current(folder)
    assert pinned is not None and pinned.pinned and pinned.names[-1] == "20-0123abcd"
    assert call("resume", folder) == 0
    served = read_current(folder)
    assert served is not None and not served.pinned and served.names[-1] == "30-0123abcd"
    assert call("resume", folder) == 0
    text = capfd.readouterr().err
    assert "version 20-0123abcd is served, until resume" in text
    assert "nothing is pinned" in text


def test_what_goes_wrong_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for command in (["list"], ["verify"], ["resume"], ["rollback", "--to=1"]):
        assert call(command[0], tmp_path / "none", *command[1:]) == 1
        *_, line = capfd.readouterr().err.splitlines()
        assert "none" in line and "No such file or directory" in line


def test_wrong_usage_is_2(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for arguments in ([], ["list"], ["rollback", f"--publish_path={folder}"], ["undo"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
