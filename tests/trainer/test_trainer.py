"""The trainer on windows held in memory: what it reports, saves and goes on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from src.checkpoints.unit import CheckpointError, newest_unit
from src.process.arrays import Array
from src.stream.position import Commit, Position
from src.trainer.callbacks import LedgerCallBack
from src.trainer.reporting import restored_metrics
from src.trainer.trainer import Trainer
from src.watching.metrics import ProgressiveMetrics
from tests.trainer.memory_topic import BATCH, ROWS, MemorySource, MemoryTopic, run


def reports() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("metrics.jsonl").read_text().splitlines()]


def saved_metrics(trainer: Trainer) -> ProgressiveMetrics:
    return restored_metrics(trainer._store.newest(), 100_000)


def test_a_restarted_trainer_reports_what_an_unbroken_one_does(
    topic: MemoryTopic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = saved_metrics(run(20))
    whole = reports()
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    topic.commit = Commit(Position({0: 0}), 0)
    run(8)
    broken = saved_metrics(run(12))
    parts = {report["step"]: report for report in reports()}
    assert [report["step"] for report in whole] == [5, 10, 15, 20]
    assert sorted(parts) == [5, 8, 10, 15, 20]  # 8: the end of the first run
    for report in whole:
        for scope in ("life", "window"):
            assert parts[report["step"]][scope] == report[scope]
    assert parts[20]["since_start"]["rows"] == 12 * BATCH
    np.testing.assert_array_equal(broken.life().counts, unbroken.life().counts)


def test_reports_tell_lag_oov_and_scores_of_rows_not_yet_trained_on(topic: MemoryTopic) -> None:
    metrics = saved_metrics(run(20))
    last = reports()[-1]
    assert (last["lag_rows"], reports()[0]["lag_rows"]) == (0, ROWS - 5 * BATCH)
    assert last["oov_rate_by_column"] == [1.0, *[0.0] * 25]
    assert last["life"]["clicks"] == int(topic.labels.sum())
    state = metrics.state()
    assert state["label"].tolist() == topic.labels.astype(bool).tolist()
    exact = roc_auc_score(topic.labels, state["logit"])
    assert last["life"]["auc"] == pytest.approx(exact, abs=1e-3)
    assert np.abs(state["logit"][:BATCH]).max() < 0.5, "the first batch meets an untrained model"


def test_watching_changes_neither_losses_nor_weights(topic: MemoryTopic, tmp_path: Path) -> None:
    run(10, "--ckpt_path=watched", "--loss_file_name=watched.log")
    topic.commit = Commit(Position({0: 0}), 0)
    quiet = ("--report_steps=0", "--metrics_path=")
    run(10, "--ckpt_path=quiet", "--loss_file_name=quiet.log", *quiet)
    assert Path("watched.log").read_text() == Path("quiet.log").read_text()
    name = "widedeep_train-1_10.ckpt"
    watched, unwatched = (ms.load_checkpoint(f"{folder}/{name}") for folder in ("watched", "quiet"))
    for parameter in watched:
        np.testing.assert_array_equal(watched[parameter].asnumpy(), unwatched[parameter].asnumpy())


def test_a_position_is_committed_once_its_unit_is_durable_and_the_audit_trail_before_it(
    topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, int]] = []

    def note(event: str) -> None:
        unit = newest_unit(Path("ckpt"), "widedeep_train")
        events.append((event, unit.step if unit else 0))

    def try_commit(source: MemorySource, commit: Commit) -> bool:
        note("commit")
        return True

    monkeypatch.setattr(MemorySource, "try_commit", try_commit)
    monkeypatch.setattr(LedgerCallBack, "sync", lambda ledger: note("sync"))
    run(4, "--save_checkpoint_steps=2")
    assert events == [("sync", 0), ("commit", 2), ("sync", 2), ("commit", 4)]


def weights(folder: str) -> dict[str, Array]:
    saved = ms.load_checkpoint(f"{folder}/widedeep_train-1_20.ckpt")
    return {name: parameter.asnumpy() for name, parameter in saved.items()}


def test_crosses_resume_bit_by_bit_and_leave_the_losses_of_the_net_as_they_are(
    topic: MemoryTopic,
) -> None:
    run(20, "--loss_file_name=without.log", "--ckpt_path=without")
    topic.with_keys = True
    crosses = ("--cross_bits=12", "--cross_learning_rate=0.05")
    for folder, cuts in (("whole", [20]), ("resumed", [7, 13])):
        topic.commit = Commit(Position({0: 0}), 0)
        for steps in cuts:
            run(steps, *crosses, f"--ckpt_path={folder}", f"--loss_file_name={folder}.log")
    whole, resumed = weights("whole"), weights("resumed")
    assert np.count_nonzero(whole["cross_weight"]) > 100
    for name, values in whole.items():
        np.testing.assert_array_equal(values, resumed[name], err_msg=name)
    for name, values in weights("without").items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)
    lines = {Path(f"{name}.log").read_text() for name in ("without", "whole", "resumed")}
    assert len(lines) == 1


def test_a_checkpoint_of_other_crosses_is_refused_by_name(topic: MemoryTopic) -> None:
    topic.with_keys = True
    run(2, "--cross_bits=12")
    with pytest.raises(CheckpointError, match="another cross_bits: 12 in the checkpoint, 13 here"):
        run(2, "--cross_bits=13")
