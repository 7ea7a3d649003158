"""Ratios, targets, the table and the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import Peer, Result, machine, missed, table, verdict, write_json
from benchmarks.stages.registry import STAGES
from benchmarks.targets import TARGETS, Target

RATE = Result("channel", documented=10, ours=45, unit="windows/s", limit=90)
TIME = Result("train_step", documented=120, ours=60, unit="ms", limit=45, measures={"busy": 0.9})
PEER = Result("train_step", None, 60, "ms", peer=Peer("PyTorch", 150))


def test_a_higher_rate_and_a_shorter_time_are_better() -> None:
    assert RATE.ratio == 4.5
    assert RATE.of_limit == 0.5
    assert TIME.ratio == 2
    assert TIME.of_limit == 0.75


def test_without_a_limit_there_is_no_share_of_it() -> None:
    assert Result("start", 9, 6, "s").of_limit is None


def test_without_a_documented_way_or_a_peer_there_is_no_ratio() -> None:
    assert PEER.ratio is None
    assert PEER.peer_ratio == 2.5
    assert TIME.peer_ratio is None


def test_medians_are_taken_by_name() -> None:
    median = {"ours": 2.0, "peer": 3.0, "limit": 1.0, "another": 9.0}
    result = Result.of_medians("train_step", "ms", median, "PyTorch", another=9.0)
    assert result == Result(
        "train_step", None, 2.0, "ms", 1.0, {"another": 9.0}, Peer("PyTorch", 3.0)
    )
    assert Result.of_medians("start", "s", {"documented": 4.0, "ours": 2.0}).peer is None


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="furlongs"):
        Result("start", 1, 1, "furlongs")


@pytest.mark.parametrize(
    ("target", "holds"),
    [
        (Target("train_step", "ratio", 2), True),
        (Target("train_step", "ratio", 2.01), False),
        (Target("train_step", "ours", 60), True),
        (Target("train_step", "ours", at_most=60), True),
        (Target("train_step", "ours", at_most=59), False),
        (Target("train_step", "of_limit", 0.75), True),
        (Target("train_step", "of_limit", 0.76), False),
        (Target("train_step", "busy", 0.95), False),
        (Target("train_step", "busy", 0.5, 0.8), False),
        (Target("train_step", "no such number", 0), False),
    ],
)
def test_a_target_holds_when_its_number_reaches_it(target: Target, holds: bool) -> None:
    assert verdict(target, TIME) == ("holds" if holds else "MISSED")
    assert bool(missed([TIME], [target])) is not holds
    assert ("MISSED" in table([TIME], [target])) is not holds


def test_a_ratio_to_a_peer_is_missed_only_where_the_peer_was_measured() -> None:
    target = Target("train_step", "peer_ratio", 3)
    assert missed([PEER], [target]) == ["train_step: peer_ratio >= 3, measured 2.5"]
    assert missed([TIME], [target]) == []
    assert "peer_ratio >= 3: needs --peers" in table([TIME], [target])


def test_every_target_of_a_result_has_its_verdict_in_the_table() -> None:
    results = [Result(target.result, 1, 1, "ms", 1, peer=Peer("p", 1)) for target in TARGETS]
    shown = table(results)
    for target in TARGETS:
        assert f"{target}: " in shown or f"{target} (-): MISSED" in shown


def test_targets_of_stages_that_did_not_run_are_not_missed() -> None:
    assert missed([RATE], [Target("produce", "ratio", 2.5)]) == []


def test_every_target_belongs_to_a_stage() -> None:
    for target in TARGETS:
        assert target.result in STAGES or target.result.rpartition("_")[0] in STAGES, target


def test_table_shows_every_number_once_and_aligned() -> None:
    lines = table([RATE, TIME], []).splitlines()
    assert lines[2].split() == ["channel", "10", "45", "windows/s", "4.50", "90", "50%", "-"]
    assert lines[3].split()[:8] == ["train_step", "120", "60", "ms", "2.00", "45", "75%", "-"]
    assert lines[3].split()[8:] == ["busy", "0.9"]
    assert lines[2].index("windows/s") == lines[3].index("ms")


def test_table_names_the_peer_and_leaves_out_what_was_not_measured() -> None:
    (*_, line) = table([PEER], []).splitlines()
    assert line.split() == [
        "train_step",
        "-",
        "60",
        "ms",
        "-",
        "-",
        "-",
        "150",
        "(2.50)",
        "PyTorch",
    ]


def test_file_holds_the_stages_by_name_and_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench.json"
    adaptive = Result("train_step_adaptive", None, 6, "ms", peer=Peer("PyTorch", 15))
    write_json(path, [RATE, TIME, adaptive], machine())
    content = json.loads(path.read_text())
    assert content["channel"] == {
        "documented": 10,
        "ours": 45,
        "unit": "windows/s",
        "ratio": 4.5,
        "limit": 90,
        "of_limit": 0.5,
        "peer": None,
    }
    peer = content["train_step_adaptive"]["peer"]
    assert peer == {"name": "PyTorch", "value": 15, "ratio": 2.5}
    assert content["train_step_adaptive"]["documented"] is None
    assert content["train_step"]["busy"] == 0.9
    assert content["machine"]["cpus"] >= 1
    assert content["machine"]["mindspore"]
