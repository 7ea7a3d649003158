"""The trainer on windows held in memory: what it reports, saves and goes on with."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from online_train import train
from src.channel.window import Provenance, make_window
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import CheckpointError
from src.config import load_config
from src.process.arrays import Array
from src.process.stop import StopFlag
from src.rows.criteo import FIELD_SIZE
from src.stream.position import Commit, Position
from src.trainer import consumer_link
from src.trainer import trainer as trainer_module
from src.trainer.callbacks import LedgerCallBack
from src.trainer.reporting import restored_metrics
from src.trainer.service import set_up_mindspore
from src.trainer.trainer import Trainer
from src.watching.metrics import ProgressiveMetrics

ROWS = 48 * 20
BATCH = 48


class MemoryTopic:
    """One partition of rows whose labels follow from their ids, read for whoever asks last."""

    def __init__(self) -> None:
        random = np.random.default_rng(4)
        self.ids = random.integers(0, 60, (ROWS, FIELD_SIZE)).astype(np.int32)
        self.labels = (self.ids[:, 0] < 20).astype(np.float32)
        self.commit = Commit(Position({0: 0}), 0)
        self.with_keys = False

    def window(self) -> Array:
        begin = self.commit.position.offsets[0]
        offset = np.arange(begin, ROWS, dtype=np.int64)
        partition = np.zeros(len(offset), np.int32)
        return make_window(
            self.ids[begin:],
            np.ones((len(offset), FIELD_SIZE), np.float32),
            self.labels[begin:],
            Provenance(partition, offset, offset, np.full(len(offset), 10**12)),
            num_shards=1,
            session=self.commit.session,
            dictionaries=1,
            oov=np.full(len(offset), 1, np.uint32),
            keys=self.ids[begin:] * 7_654_321 if self.with_keys else None,
        )


class MemorySource:
    """What the trainer uses of a RowSource."""

    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic

    def __enter__(self) -> MemorySource:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def committed(self) -> Commit:
        return self._topic.commit

    def commit(self, commit: Commit) -> None:
        self._topic.commit = commit

    def try_commit(self, commit: Commit) -> bool:
        self._topic.commit = commit
        return True

    def try_ends(self) -> dict[int, int]:
        return {0: ROWS}


class MemoryReceiver:
    """Hands all rows behind the committed position out as one window."""

    num_shards = 1

    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic
        self._handed_out = False

    def receive(self, timeout_seconds: float, give_up: Any) -> Array | None:
        if self._handed_out:
            time.sleep(0.01)
            return None
        self._handed_out = True
        return self._topic.window()

    def close(self) -> None:
        pass


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryTopic]:
    made = MemoryTopic()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(consumer_link, "RowSource", lambda *_: MemorySource(made))
    monkeypatch.setattr(consumer_link, "attach", lambda *_: MemoryReceiver(made))
    monkeypatch.setattr(trainer_module, "finalize", lambda: None)
    set_up_mindspore("CPU")
    yield made


def run(max_steps: int, *flags: str) -> Trainer:
    small = ("--vocab_size=60", "--emb_dim=4", "--deep_layer_dim=8", f"--batch_size={BATCH}")
    config = load_config(
        [*small, "--report_steps=5", "--idle_seconds=60", f"--max_steps={max_steps}", *flags]
    )
    trainer = Trainer(config, StopFlag())
    with contextlib.closing(trainer):
        train(config, trainer)
    return trainer


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
    store = CheckpointStore(Path("ckpt"), "widedeep_train", 5)
    events: list[tuple[str, int]] = []

    def note(event: str) -> None:
        unit = store.newest()
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
