"""Paths as people write them."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from src.process.paths import PathError, expanded_path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", "/home/me"),
        ("~/day 0.tsv", "/home/me/day 0.tsv"),
        ("~root", pwd.getpwnam("root").pw_dir),
        ("~root/x", f"{pwd.getpwnam('root').pw_dir}/x"),
        ("./~/x", "./~/x"),
        ("a~", "a~"),
        ("-", "-"),
        ("./cost_in_$", "./cost_in_$"),
        ("/a//b/../c", "/a//b/../c"),
    ],
)
def test_home_is_expanded_and_nothing_else(
    text: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded_path(text) == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must not be empty"),
        (" \t", "must not be empty"),
        (" a", "' a' begins or ends with a blank"),
        ("a\n", r"'a\\n' begins or ends with a blank"),
        ("a\0b", "NUL"),
        ("~no_such_user/x", "~no_such_user in '~no_such_user/x' is no user's home"),
        ("$HOME/x", r"\$HOME in '\$HOME/x' is not expanded here"),
        ("/data/${USER}/x", r"\$\{USER\} in .* is not expanded here"),
    ],
)
def test_what_can_not_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(PathError, match=message):
        expanded_path(text)


def test_a_file_with_a_dollar_in_its_name_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a$b.tsv"
    path.touch()
    assert expanded_path(str(path)) == str(path)
