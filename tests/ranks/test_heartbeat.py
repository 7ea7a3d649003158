"""The pulse of a rank, and what its launcher makes of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from src.ranks import heartbeat as pulse_module
from src.ranks.heartbeat import (
    FOLDER_VARIABLE,
    Beat,
    HangDetector,
    Pulse,
    last_beat,
    pulse_from,
    pulse_path,
)

LIMIT = 25.0


def beat(at: float, rounds: int, rank: int = 0) -> Beat:
    return Beat(at, pid=1, rank=rank, rounds=rounds)


def test_a_beat_says_when_who_and_how_far(tmp_path: Path) -> None:
    pulse = Pulse(pulse_path(tmp_path, 3))
    pulse.rank, pulse.rounds = 1, 77
    before = time.time()
    pulse.beat()
    told = last_beat(tmp_path, 3)
    assert told is not None
    assert before <= told.at <= time.time()
    assert (told.pid, told.rank, told.rounds) == (os.getpid(), 1, 77)


def test_a_process_beats_by_itself_while_its_main_thread_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse_module, "BEAT_SECONDS", 0.02)
    pulse = pulse_from({FOLDER_VARIABLE: str(tmp_path)}, 0)
    seen: set[float] = set()
    give_up_at = time.monotonic() + 10
    while len(seen) < 3 and time.monotonic() < give_up_at:
        told = last_beat(tmp_path, 0)
        if told is not None:
            assert (told.rank, told.rounds) == (-1, 0)
            seen.add(told.at)
        time.sleep(0.01)
    assert len(seen) == 3
    assert pulse.rank == -1


def test_a_process_without_a_launcher_writes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pulse_from({}, 0).beat()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_gone_does_not_disturb_the_rank(tmp_path: Path) -> None:
    pulse = Pulse(pulse_path(tmp_path / "gone", 0))
    pulse.beat()
    assert last_beat(tmp_path / "gone", 0) is None


@pytest.mark.parametrize("text", ["", "1.0 2 3", "now 2 3 4", "1.0 2 3 4 5"])
def test_what_is_no_beat_is_none(text: str, tmp_path: Path) -> None:
    pulse_path(tmp_path, 0).write_text(text)
    assert last_beat(tmp_path, 0) is None


def test_a_rank_that_is_silent_hangs() -> None:
    hangs = HangDetector(LIMIT)
    beats = {0: beat(100.0, 5), 1: beat(80.0, 5)}
    assert hangs.look(beats, now=105.0) is None
    assert hangs.look(beats, now=106.0) == (1, "has given no sign of life for 26 s")


def test_a_rank_whose_round_stands_still_behind_the_others_hangs_though_it_beats() -> None:
    hangs = HangDetector(LIMIT)
    for now in range(100, 126):
        assert hangs.look({0: beat(now, 8), 1: beat(now, 7), 2: beat(now, 8)}, now) is None
    found = hangs.look({0: beat(126, 8), 1: beat(126, 7), 2: beat(126, 8)}, 126)
    assert found == (1, "has hung for 26 s, the others wait for it")


def test_ranks_that_stand_still_together_do_not_hang() -> None:
    """A step of theirs may take long; the one that waits longest is not known."""
    hangs = HangDetector(LIMIT)
    for now in range(100, 400):
        assert hangs.look({0: beat(now, 8), 1: beat(now, 8)}, now) is None


def test_a_rank_that_is_behind_but_moves_does_not_hang() -> None:
    hangs = HangDetector(LIMIT)
    for now in range(100, 400):
        rounds = now // 20  # the other is looked at a moment later each time
        assert hangs.look({0: beat(now, rounds + 1), 1: beat(now, rounds)}, now) is None


def test_time_behind_counts_from_when_the_rank_fell_behind() -> None:
    hangs = HangDetector(LIMIT)
    for now in range(100, 200):
        assert hangs.look({0: beat(now, 8), 1: beat(now, 8)}, now) is None
    for now in range(200, 225):
        assert hangs.look({0: beat(now, 9), 1: beat(now, 8)}, now) is None
    found = hangs.look({0: beat(225, 9), 1: beat(225, 8)}, 225)
    assert found == (1, "has hung for 26 s, the others wait for it")


def test_nobody_hangs_before_the_first_beat() -> None:
    assert HangDetector(LIMIT).look({}, now=1e9) is None
