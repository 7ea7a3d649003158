from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from src.process.files import atomic_write_bytes, atomic_writer


def test_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write_bytes(path, b"old")
    atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half-way"), atomic_writer(path) as file:
        file.write(b"ne")
        raise RuntimeError("half-way")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_old_content_stands_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_writer(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_content_and_folder_are_made_durable_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def record(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def recording(*arguments: object) -> None:
            calls.append(name)
            function(*arguments)

        return recording

    monkeypatch.setattr(os, "fsync", record("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", record("rename", os.replace))
    atomic_write_bytes(tmp_path / "file", b"x")
    assert calls == ["fsync", "rename", "fsync"]
    calls.clear()
    with atomic_writer(tmp_path / "file", durable=False) as file:
        file.write(b"y")
    assert calls == ["rename"]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    atomic_write_bytes(link, b"x")
    assert link.is_symlink() and target.read_bytes() == b"x"
    atomic_write_bytes("/dev/null", b"x")
    assert Path("/dev/null").is_char_device()
