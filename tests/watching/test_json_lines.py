"""Files of JSON lines: rotated, bounded, and given up quietly where they can't be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from src.watching.json_lines import JsonLines


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_are_rotated_by_size_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    output = JsonLines(str(path), max_bytes=1000, kept=2)
    for number in range(500):
        output.append({"number": number, "text": "x" * 50})
    output.close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["metrics.jsonl", "metrics.jsonl.1", "metrics.jsonl.2"]
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())
    kept = [line["number"] for name in reversed(names) for line in lines_of(tmp_path / name)]
    assert kept == list(range(kept[0], 500))


def test_json_lines_are_appended_to_what_an_earlier_run_left(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for number in range(2):
        output = JsonLines(str(path))
        output.append({"run": number})
        output.close()
    assert lines_of(path) == [{"run": 0}, {"run": 1}]


def test_no_path_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    JsonLines("").append({"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "metrics.jsonl")
    with pytest.raises(match=f"^can't open {path}: No such file or directory$"):
        JsonLines(path)


def test_full_disk_is_named_once_and_does_not_end_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = JsonLines("/dev/full")
    output.append({"a": 1})
    output.append({"a": 2})
    assert caplog.messages == [
        "can't write /dev/full, going on without it: No space left on device"
    ]
