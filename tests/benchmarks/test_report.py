"""Ratios, targets, the table and the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import TARGETS, Result, Target, machine, missed, table, write_json
from benchmarks.stages.registry import STAGES

RATE = Result("channel", documented=10, ours=45, unit="windows/s", limit=90)
TIME = Result("train_step", documented=120, ours=60, unit="ms", limit=45, measures={"busy": 0.9})


def test_a_higher_rate_and_a_shorter_time_are_better() -> None:
    assert RATE.ratio == 4.5
    assert RATE.of_limit == 0.5
    assert TIME.ratio == 2
    assert TIME.of_limit == 0.75


def test_without_a_limit_there_is_no_share_of_it() -> None:
    assert Result("start", 9, 6, "s").of_limit is None


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="furlongs"):
        Result("start", 1, 1, "furlongs")


@pytest.mark.parametrize(
    ("target", "holds"),
    [
        (Target("train_step", "ratio", 2), True),
        (Target("train_step", "ratio", 2.01), False),
        (Target("train_step", "ours", 60), True),
        (Target("train_step", "busy", 0.95), False),
        (Target("train_step", "no such number", 0), False),
    ],
)
def test_a_target_holds_when_its_number_reaches_it(target: Target, holds: bool) -> None:
    assert target.holds(TIME) is holds
    assert bool(missed([TIME], [target])) is not holds
    assert ("MISSED" in table([TIME], [target])) is not holds


def test_targets_of_stages_that_did_not_run_are_not_missed() -> None:
    assert missed([RATE], [Target("produce", "ratio", 2.5)]) == []


def test_every_target_belongs_to_a_stage() -> None:
    for target in TARGETS:
        assert target.result in STAGES or target.result.rpartition("_")[0] in STAGES, target


def test_table_shows_every_number_once_and_aligned() -> None:
    lines = table([RATE, TIME], []).splitlines()
    assert lines[2].split() == ["channel", "10", "45", "windows/s", "4.50", "90", "50%"]
    assert lines[3].split() == ["train_step", "120", "60", "ms", "2.00", "45", "75%", "busy", "0.9"]
    assert lines[2].index("windows/s") == lines[3].index("ms")


def test_file_holds_the_stages_by_name_and_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench.json"
    write_json(path, [RATE, TIME], machine())
    content = json.loads(path.read_text())
    assert content["channel"] == {
        "documented": 10,
        "ours": 45,
        "unit": "windows/s",
        "ratio": 4.5,
        "limit": 90,
        "of_limit": 0.5,
    }
    assert content["train_step"]["busy"] == 0.9
    assert content["machine"]["cpus"] >= 1
    assert content["machine"]["mindspore"]
