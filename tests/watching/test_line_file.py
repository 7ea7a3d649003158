from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from src.process.output import OutputError
from src.stream.position import RowRange
from src.trainer.audit_trail import audit_line, begin_audit
from src.watching.line_file import LineFile, rotated


def trail(steps: range) -> str:
    return "".join(audit_line(step, RowRange(0, step, step, 1)) + "\n" for step in steps)


def test_lines_can_be_read_at_once_and_follow_the_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "loss.log"
    for text in ("a", "b"):
        file = LineFile(str(path))
        file.append(text, text * 2)
        assert path.read_text().endswith(f"{text}\n{text * 2}\n")
        file.sync()
        file.close()
        file.sync()
    assert path.read_text() == "a\naa\nb\nbb\n"


def test_file_and_its_predecessor_stay_bounded_and_hold_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "loss.log"
    file = LineFile(str(path), max_bytes=100)
    for number in range(1000):
        file.append(f"line {number}")
        assert path.stat().st_size <= 100
    file.close()
    assert sorted(tmp_path.iterdir()) == [path, Path(rotated(str(path)))]
    kept = (Path(rotated(str(path))).read_text() + path.read_text()).splitlines()
    assert kept == [f"line {number}" for number in range(1000 - len(kept), 1000)]
    assert len(kept) >= 10


def test_what_is_moved_aside_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(
        "src.watching.line_file.os.fsync", lambda fd: synced.append(os.fstat(fd).st_ino)
    )
    path = tmp_path / "audit.jsonl"
    file = LineFile(str(path), max_bytes=10)
    file.append("a line of the trail")
    file.close()
    assert os.stat(rotated(str(path))).st_ino in synced


def test_the_trail_is_made_durable_while_another_thread_appends_and_rotates(
    tmp_path: Path,
) -> None:
    file = LineFile(str(tmp_path / "audit.jsonl"), max_bytes=50)

    def append() -> None:
        for number in range(2000):
            file.append(f"line {number}")

    with ThreadPoolExecutor(1) as thread:
        appending = thread.submit(append)
        while not appending.done():
            file.sync()
        appending.result()
        thread.submit(file.close)
        file.sync()
    file.sync()


def test_file_that_was_long_before_is_rotated_too(tmp_path: Path) -> None:
    path = tmp_path / "loss.log"
    path.write_text("x" * 200)
    file = LineFile(str(path), max_bytes=100)
    file.append("next")
    file.append("last")
    file.close()
    assert path.read_text() == "last\n"


def test_no_path_writes_nothing_and_a_bad_one_is_named(tmp_path: Path) -> None:
    file = LineFile("")
    file.append("nothing")
    file.sync()
    file.close()
    with pytest.raises(OutputError, match="can't open .*missing"):
        LineFile(str(tmp_path / "missing" / "loss.log"))
    full = LineFile("/dev/full")
    with pytest.raises(OutputError, match="^can't write /dev/full: No space left on device$"):
        full.append("a line")
    full.close()


def test_steps_after_the_checkpoint_are_cut_off_the_trail(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text(trail(range(1, 10)) + '{"step": 10, "par')
    begin_audit(str(path), 6, fresh=False)
    assert path.read_text() == trail(range(1, 7))
    begin_audit(str(path), 0, fresh=False)
    assert path.read_text() == ""


def test_the_cut_reaches_into_the_rotated_part(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    before = Path(rotated(str(path)))
    before.write_text(trail(range(1, 10)))
    path.write_text(trail(range(10, 20)))
    begin_audit(str(path), 12, fresh=False)
    assert (before.read_text(), path.read_text()) == (trail(range(1, 10)), trail(range(10, 13)))
    begin_audit(str(path), 5, fresh=False)
    assert (before.read_text(), path.read_text()) == (trail(range(1, 6)), "")


def test_a_fresh_start_sets_the_trail_of_other_weights_aside(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text(trail(range(1, 4)))
    begin_audit(str(path), 0, fresh=True)
    assert not path.exists()
    (aside,) = tmp_path.glob("audit.jsonl.before-*")
    assert aside.read_text() == trail(range(1, 4))


def test_a_file_that_is_no_trail_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("some notes\n")
    with pytest.raises(OutputError, match="notes.txt is no audit trail: b'some notes"):
        begin_audit(str(path), 5, fresh=False)
    assert path.read_text() == "some notes\n"
    begin_audit("", 5, fresh=False)
    begin_audit(str(tmp_path / "absent"), 5, fresh=False)
