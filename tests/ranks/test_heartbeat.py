"""The heartbeat of a rank, and how its launcher detects a hang."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from src.ranks import heartbeat as heartbeat_module
from src.ranks.heartbeat import (
    FOLDER_VARIABLE,
    HangDetector,
    Heartbeat,
    HeartbeatWriter,
    heartbeat_path,
    heartbeat_writer_from,
    last_heartbeat,
)

LIMIT = 25.0


def heartbeat(at: float, rounds: int, rank: int = 0) -> Heartbeat:
    return Heartbeat(at, pid=1, rank=rank, rounds=rounds)


def test_a_heartbeat_holds_time_process_rank_and_rounds(tmp_path: Path) -> None:
    writer = HeartbeatWriter(heartbeat_path(tmp_path, 3))
    writer.rank, writer.rounds = 1, 77
    before = time.time()
    writer.write()
    last = last_heartbeat(tmp_path, 3)
    assert last is not None
    assert before <= last.at <= time.time()
    assert (last.pid, last.rank, last.rounds) == (os.getpid(), 1, 77)


def test_a_process_writes_heartbeats_while_its_main_thread_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_module, "HEARTBEAT_SECONDS", 0.02)
    writer = heartbeat_writer_from({FOLDER_VARIABLE: str(tmp_path)}, 0)
    seen: set[float] = set()
    give_up_at = time.monotonic() + 10
    while len(seen) < 3 and time.monotonic() < give_up_at:
        last = last_heartbeat(tmp_path, 0)
        if last is not None:
            assert (last.rank, last.rounds) == (-1, 0)
            seen.add(last.at)
        time.sleep(0.01)
    assert len(seen) == 3
    assert writer.rank == -1


def test_a_process_without_a_launcher_writes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    heartbeat_writer_from({}, 0).write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_gone_does_not_disturb_the_rank(tmp_path: Path) -> None:
    writer = HeartbeatWriter(heartbeat_path(tmp_path / "gone", 0))
    writer.write()
    assert last_heartbeat(tmp_path / "gone", 0) is None


@pytest.mark.parametrize("text", ["", "1.0 2 3", "now 2 3 4", "1.0 2 3 4 5"])
def test_a_file_that_is_no_heartbeat_is_none(text: str, tmp_path: Path) -> None:
    heartbeat_path(tmp_path, 0).write_text(text)
    assert last_heartbeat(tmp_path, 0) is None


def test_a_rank_that_is_silent_hangs() -> None:
    hangs = HangDetector(LIMIT)
    heartbeats = {0: heartbeat(100.0, 5), 1: heartbeat(80.0, 5)}
    assert hangs.find(heartbeats, now=105.0) is None
    assert hangs.find(heartbeats, now=106.0) == (1, "has sent no heartbeat for 26 s")


def test_a_rank_whose_round_stands_still_behind_the_others_hangs_though_it_writes() -> None:
    hangs = HangDetector(LIMIT)
    for now in range(100, 126):
        heartbeats = {0: heartbeat(now, 8), 1: heartbeat(now, 7), 2: heartbeat(now, 8)}
        assert hangs.find(heartbeats, now) is None
    found = hangs.find({0: heartbeat(126, 8), 1: heartbeat(126, 7), 2: heartbeat(126, 8)}, 126)
    assert found == (1, "has hung for 26 s, the others wait for it")


def test_ranks_that_stand_still_together_do_not_hang() -> None:
    """A step of theirs may take long; the one that waits longest is not known."""
    hangs = HangDetector(LIMIT)
    for now in range(100, 400):
        assert hangs.find({0: heartbeat(now, 8), 1: heartbeat(now, 8)}, now) is None


def test_a_rank_that_is_behind_but_moves_does_not_hang() -> None:
    hangs = HangDetector(LIMIT)
    for now in range(100, 400):
        rounds = now // 20  # the other is read a moment later each time
        assert hangs.find({0: heartbeat(now, rounds + 1), 1: heartbeat(now, rounds)}, now) is None


def test_time_behind_counts_from_when_the_rank_fell_behind() -> None:
    hangs = HangDetector(LIMIT)
    for now in range(100, 200):
        assert hangs.find({0: heartbeat(now, 8), 1: heartbeat(now, 8)}, now) is None
    for now in range(200, 225):
        assert hangs.find({0: heartbeat(now, 9), 1: heartbeat(now, 8)}, now) is None
    found = hangs.find({0: heartbeat(225, 9), 1: heartbeat(225, 8)}, 225)
    assert found == (1, "has hung for 26 s, the others wait for it")


def test_no_rank_hangs_before_its_first_heartbeat() -> None:
    assert HangDetector(LIMIT).find({}, now=1e9) is None
