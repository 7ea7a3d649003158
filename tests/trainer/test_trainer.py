"""The trainer on windows held in memory: what it reports, saves and goes on with."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from online_train import train
from src.checkpoints.locking import OWNER, Owner
from src.checkpoints.parts import load
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import CheckpointError, newest_unit, read_unit
from src.cluster.access import AccessError
from src.config import load_config
from src.dictionaries.oov import UnknownValues
from src.model.workers import workers_by_thread
from src.process.arrays import Array
from src.process.stop import StopFlag
from src.rows.criteo import CATEGORICAL_SIZE
from src.stream.position import Commit, Position
from src.trainer import callbacks, consumer_link
from src.trainer.callbacks import LedgerCallBack, LossCallBack, NonFiniteLoss
from src.trainer.reporting import restored_metrics
from src.trainer.service import run_to_the_end
from src.trainer.trainer import Trainer
from src.watching.metrics import ProgressiveMetrics
from tests.trainer.memory_topic import BATCH, ROWS, SMALL, MemorySource, MemoryTopic, run


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


def test_a_checkpoint_in_parts_resumes_and_starts_another_model_bit_by_bit(
    topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(20, "--ckpt_path=whole")
    monkeypatch.setattr("src.checkpoints.store.PART_BYTES", 300)
    for steps in (7, 13):
        topic.commit = Commit(Position({0: 0}), 0)
        run(steps, "--ckpt_path=parts")
    expected = newest_unit(Path("whole"), "widedeep_train")
    unit = newest_unit(Path("parts"), "widedeep_train")
    assert expected is not None and unit is not None and "embedding_table" in unit.cut
    topic.commit = Commit(Position({0: 0}), 0)
    run(1, "--ckpt_path=other", f"--init_ckpt={unit.files[2]}", "--loss_file_name=parts.log")
    topic.commit = Commit(Position({0: 0}), 0)
    run(1, "--ckpt_path=more", f"--init_ckpt={expected.path}", "--loss_file_name=whole.log")
    assert Path("parts.log").read_text() == Path("whole.log").read_text()
    whole, parts = load(expected), load(unit)
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name], err_msg=name)


@pytest.mark.parametrize("kind", ["fixed", "growing"])
def test_a_checkpoint_written_while_training_goes_on_is_that_of_its_step_bit_by_bit(
    topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    flags: list[str] = []
    if kind == "growing":
        topic.with_keys = True
        topic.unknown = made_up_values()
        flags = ["--sparse=True", "--table_optimizer=adagrad", "--cross_bits=12"]
        flags += ["--admit_count=1", "--expire_rows=100"]
    run(8, *flags, "--ckpt_path=stopped")

    def wait_for_step_12(ledger: LedgerCallBack) -> None:
        while ledger._progress.step < 12:
            time.sleep(0.001)

    monkeypatch.setattr(LedgerCallBack, "sync", wait_for_step_12)
    topic.commit = Commit(Position({0: 0}), 0)
    run(20, *flags, "--ckpt_path=going_on", "--save_checkpoint_steps=8")
    expected, found = (
        read_unit(Path(folder) / "widedeep_train-1_8.ckpt") for folder in ("stopped", "going_on")
    )
    assert (found.position, found.extra) == (expected.position, expected.extra)
    saved, wanted = load(found), load(expected)
    assert saved.keys() == wanted.keys()
    assert ("vocabulary" in saved) == (kind == "growing")
    for name, values in wanted.items():
        np.testing.assert_array_equal(saved[name], values, err_msg=name)


def made_up_values() -> UnknownValues:
    """Values of C1 that no dictionary has, the same one in several rows; ids 50 … 59 are free."""
    values = np.zeros((ROWS, CATEGORICAL_SIZE), "S4")
    values[:, 0] = [b"v%d" % (row // 60) for row in range(ROWS)]
    return UnknownValues(values, (50, 60))


def test_checkpoints_of_every_step_change_no_weight(topic: MemoryTopic) -> None:
    run(20, "--ckpt_path=seldom")
    topic.commit = Commit(Position({0: 0}), 0)
    run(20, "--ckpt_path=often", "--save_checkpoint_steps=1")
    seldom, often = weights("seldom"), weights("often")
    for name, values in seldom.items():
        np.testing.assert_array_equal(values, often[name], err_msg=name)


def test_a_checkpoint_that_fails_beside_training_is_one_line_and_exit_code_1(
    topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LedgerCallBack, "sync", lambda ledger: shutil.rmtree("ckpt"))
    config = load_config([*SMALL, "--save_checkpoint_steps=2", "--max_steps=20"])
    assert run_to_the_end(config, train, lambda: Trainer(config, StopFlag())) == 1
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    path = Path("ckpt/widedeep_train-1_2.ckpt")
    assert errors == [f"can't write checkpoint {path}: No such file or directory"]


def test_an_error_of_training_waits_for_the_checkpoint_under_way(
    topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    report = LossCallBack.on_train_step_end

    def diverge_at_step_4(callback: LossCallBack, run_context: Any) -> None:
        report(callback, run_context)
        if callback._progress.step == 4:
            raise NonFiniteLoss("the loss is not finite")

    monkeypatch.setattr(LossCallBack, "on_train_step_end", diverge_at_step_4)
    monkeypatch.setattr(LedgerCallBack, "sync", lambda ledger: time.sleep(0.5))
    config = load_config([*SMALL, "--save_checkpoint_steps=3"])
    assert run_to_the_end(config, train, lambda: Trainer(config, StopFlag())) == 1
    unit = newest_unit(Path("ckpt"), "widedeep_train")
    assert unit is not None and unit.step == 3
    assert topic.commit.position == unit.position
    logged = [record.message.split(" at ")[0] for record in caplog.records]
    last = [line for line in logged if line.startswith(("checkpoint ", "the loss"))]
    assert last == [f"checkpoint {unit.path}", "the loss is not finite"]


def test_a_stop_while_the_folders_owner_is_watched_is_a_clean_end(topic: MemoryTopic) -> None:
    folder = Path("ckpt")
    folder.mkdir()
    elsewhere = replace(Owner.ourselves(), boot="another")
    (folder / OWNER).write_text(json.dumps(asdict(elsewhere)))
    flag, config = StopFlag(), load_config([])
    flag.set("SIGTERM")
    assert run_to_the_end(config, train, lambda: Trainer(config, flag)) == 0
    assert (folder / OWNER).exists()


def test_mindspores_workers_are_bound_once_and_when_they_exist(
    topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    monkeypatch.setattr(callbacks, "bind_workers", lambda: found.append(len(workers_by_thread())))
    run(3)
    assert len(found) == 1
    assert found[0] >= 2


def test_two_trainers_on_one_folder(topic: MemoryTopic, caplog: pytest.LogCaptureFixture) -> None:
    first, config = CheckpointStore(Path("ckpt"), "widedeep_train", 5), load_config([])
    first.lock()
    assert run_to_the_end(config, train, lambda: Trainer(config, StopFlag())) == 1
    assert "another trainer is using ckpt (process" in caplog.text
    first.unlock()


def test_a_trainer_that_has_lost_its_folder_stops_and_changes_nothing(
    topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = LedgerCallBack.sync

    def lose(ledger: LedgerCallBack) -> None:
        sync(ledger)
        elsewhere = replace(Owner.ourselves(), boot="another")
        Path("ckpt", OWNER).write_text(json.dumps(asdict(elsewhere)))

    run(2)
    before = topic.commit
    monkeypatch.setattr(LedgerCallBack, "sync", lose)
    with pytest.raises(CheckpointError, match="has taken over ckpt"):
        run(2)
    unit = newest_unit(Path("ckpt"), "widedeep_train")
    assert unit is not None and unit.step == 2
    assert topic.commit.position == before.position


@pytest.mark.parametrize(("is_final", "code"), [(True, 1), (False, 0)])
def test_a_refusal_ends_the_trainer_before_it_waits_and_a_broker_that_is_away_does_not(
    topic: MemoryTopic,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_final: bool,
    code: int,
) -> None:
    def refuse(*_: object) -> None:
        raise AccessError("kafka-1:9093 says no", is_final)

    monkeypatch.setattr(consumer_link, "check_access", refuse)
    waited: list[bool] = []

    def attach(*_: object) -> None:
        waited.append(True)
        flag.set("a test")

    monkeypatch.setattr(consumer_link, "attach", attach)
    flag = StopFlag()
    assert run_to_the_end(load_config([]), train, lambda: Trainer(load_config([]), flag)) == code
    assert bool(waited) is not is_final
    assert "kafka-1:9093 says no" in caplog.text
