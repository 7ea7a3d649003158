"""Callbacks: under the real RecModel.online_train in both modes, and one by one."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import threading
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops
from mindspore.dataset import GeneratorDataset
from mindspore.train import CheckpointConfig
from mindspore_rec import RecModel

from src.checkpoints.copies import KeptCopies
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import CheckpointError, Unit
from src.checkpoints.unit_writer import Moment, UnitWriter
from src.dictionaries.growing.growth import Growth
from src.dictionaries.growing.vocabulary import Change, GrowthSettings
from src.process.output import OutputError
from src.process.stop import StopFlag
from src.rows.criteo import CATEGORICAL_SIZE, FIELD_SIZE
from src.stream.position import Position, RowRange
from src.trainer.callbacks import (
    LedgerCallBack,
    LossCallBack,
    NonFiniteLoss,
    StopCallBack,
    StreamCheckpoint,
    TrainingProgress,
    TrainingStopped,
    loss_line,
)
from src.trainer.dataset import BatchRecord

START = Position({0: 0, 1: 0})
DOCUMENTED_LINE = re.compile(r"epoch: 1, step: \d+, wide_loss: [\d.e+-]+, deep_loss: [\d.e+-]+")


class ListedLedger:
    """Batches of 4 rows, 3 of partition 0 and 1 of partition 1."""

    def __init__(self, batches: int, first: int = 0) -> None:
        self._records = deque(self._record(number) for number in range(first, first + batches))

    @staticmethod
    def _record(number: int) -> BatchRecord:
        ranges = [RowRange(0, 3 * number, 3 * number + 2, 3), RowRange(1, number, number, 1)]
        position = Position({0: 3 * number + 3, 1: number + 1}, 1)
        labels, oov = np.zeros(4, np.float32), np.zeros(4, np.uint32)
        return BatchRecord(position, ranges, 4, 42, labels, oov, newest_timestamp=0)

    def next_batch(self) -> BatchRecord:
        return self._records.popleft()


class TwoLosses(nn.Cell):  # type: ignore[misc]
    """Returns what the training step returns: (wide loss, deep loss, logit)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor(np.zeros(1, np.float32)), name="weight")
        self.mean = ops.ReduceMean()

    def construct(self, features: ms.Tensor) -> Any:
        mean = self.mean(features)
        stepped = ops.assign_add(self.weight, ops.ones((1,), ms.float32))
        return mean, mean + 1.0, stepped


def context_of(wide: float, deep: float) -> Any:
    outputs = tuple(ms.Tensor(np.float32(value)) for value in (wide, deep, 0.0))
    return SimpleNamespace(original_args=lambda: SimpleNamespace(net_outputs=outputs))


def checkpoint_of(
    progress: TrainingProgress,
    folder: Path,
    saved: list[Unit],
    every_steps: int = 2,
    gate: threading.Event | None = None,
    beside: bool = True,
) -> StreamCheckpoint:
    """Checkpoints of a network of one weight; writing in the thread waits for the gate."""

    def wait_for_gate() -> None:
        if gate is not None:
            assert gate.wait(10)

    def moment() -> Moment:
        step, position = progress.step, progress.position
        return Moment(step, position, "clicks", 42, {"emb_dim": 1}, wait_for_gate, dict, bytes)

    writer = UnitWriter(
        TwoLosses(),
        CheckpointStore(folder, "w", 9),
        moment,
        lambda unit, _: saved.append(unit),
        KeptCopies() if beside else None,
    )
    config = CheckpointConfig(save_checkpoint_steps=every_steps, keep_checkpoint_max=9)
    return StreamCheckpoint("w", str(folder), config, progress, writer)


def finish_step(progress: TrainingProgress, *callbacks: ms.Callback) -> None:
    progress.step += 1
    progress.steps_done += 1
    for callback in callbacks:
        callback.on_train_step_end(None)


@pytest.mark.parametrize("sink_mode", [False, True], ids=["feed", "sink"])
def test_online_train_reports_saves_and_stops_and_goes_on_counting(
    sink_mode: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    batches = [(np.full((2, 3), number + 0.5, np.float32),) for number in range(20)]
    saved: list[Unit] = []
    progress = TrainingProgress(0, START)
    for first in (0, 5):
        dataset = GeneratorDataset(
            batches[first:], ["features"], shuffle=False, python_multiprocessing=False
        )
        progress = TrainingProgress(progress.step, progress.position)
        callbacks = [
            ms.TimeMonitor(1),
            LedgerCallBack(progress, ListedLedger(9, first), str(tmp_path / "audit.jsonl")),
            LossCallBack(progress, str(tmp_path / "loss.log")),
            checkpoint_of(progress, tmp_path / "ckpt", saved, beside=False),
            StopCallBack(progress, StopFlag(), max_steps=5),
        ]
        with pytest.raises(TrainingStopped, match="5 steps are done"):
            RecModel(TwoLosses()).online_train(dataset, callbacks, dataset_sink_mode=sink_mode)
    lines = (tmp_path / "loss.log").read_text().splitlines()
    assert lines == [
        f"epoch: 1, step: {number + 1}, wide_loss: {number}.5, deep_loss: {number + 1}.5"
        for number in range(10)
    ]
    assert [line for line in capsys.readouterr().out.splitlines() if line[:5] == "epoch"] == lines
    assert [unit.step for unit in saved] == [2, 4, 6, 8, 10]
    assert saved[-1].position == Position({0: 30, 1: 10}, 1)
    assert progress.first_losses == (5.5, 6.5)
    assert progress.last_losses == (9.5, 10.5)
    audit = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [row["step"] for row in audit] == [step for step in range(1, 11) for _ in range(2)]


def test_a_step_that_takes_ids_back_leaves_their_rows_reset_and_the_vocabulary_behind_it() -> None:
    growth = Growth(GrowthSettings(admit_count=1, expire_rows=2), vocab_size=51)
    changes = [grow_c1(growth, value) for value in (b"a", b"", b"", b"b")]
    assert changes[3].freed.tolist() == [0]
    reset: list[list[int]] = []
    progress = TrainingProgress(0, START)
    records = deque(
        dataclasses.replace(ListedLedger(1).next_batch(), change=change) for change in changes
    )
    callback = LedgerCallBack(
        progress,
        SimpleNamespace(next_batch=records.popleft),
        "",
        lambda change: growth.follow(change, lambda ids: reset.append(ids.tolist())),
    )
    known = []
    for _ in changes:
        callback.on_train_step_end(None)
        known.append(len(growth))
    assert known == [1, 1, 1, 0]
    assert reset == [[50]]


def grow_c1(growth: Growth, value: bytes) -> Change:
    """The change of a batch of one row, of which C1 has an unknown value or nothing has."""
    oov = np.array([1 if value else 0], dtype=np.uint32)
    values = np.full((1, CATEGORICAL_SIZE), value, dtype="S8")
    ids = np.zeros((1, FIELD_SIZE), dtype=np.int32)
    return growth.grow(ids, oov, values, (50, 51))[2]


def test_loss_line_is_the_documented_one() -> None:
    line = loss_line(7, np.float32(0.20943595), np.float32(0.25780612))
    assert line == "epoch: 1, step: 7, wide_loss: 0.20943595, deep_loss: 0.25780612"


def test_loss_is_printed_and_appended_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loss.log"
    path.write_text("what an earlier run wrote\n")
    progress = TrainingProgress(41, START)
    callback = LossCallBack(progress, str(path))
    finish_step(progress)
    callback.on_train_step_end(context_of(0.7, 0.764))
    line = "epoch: 1, step: 42, wide_loss: 0.7, deep_loss: 0.764"
    assert capsys.readouterr().out == line + "\n"
    assert path.read_text() == f"what an earlier run wrote\n{line}\n"
    assert DOCUMENTED_LINE.fullmatch(line)
    callback.close()


def test_loss_without_a_file_is_only_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    LossCallBack(TrainingProgress(3, START), "").on_train_step_end(context_of(0.5, 0.75))
    assert "step: 3, wide_loss: 0.5" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wide", "deep"), [(float("nan"), 1.0), (1.0, float("inf")), (float("-inf"), float("nan"))]
)
def test_loss_that_is_not_finite_names_step_and_losses(wide: float, deep: float) -> None:
    progress = TrainingProgress(12, START)
    expected = f"step: 12, wide_loss: {wide}, deep_loss: {deep}"
    with pytest.raises(NonFiniteLoss, match=re.escape(expected)):
        LossCallBack(progress, "").on_train_step_end(context_of(wide, deep))
    assert progress.last_losses is None


def test_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    progress = TrainingProgress(0, START)
    path = str(tmp_path / "missing" / "file")
    with pytest.raises(OutputError, match=f"^can't open {path}: No such file or directory$"):
        LossCallBack(progress, path)
    with pytest.raises(OutputError, match="can't open"):
        LedgerCallBack(progress, ListedLedger(1), path)


def test_full_disk_under_a_file_is_one_line() -> None:
    progress = TrainingProgress(1, START)
    callback = LedgerCallBack(progress, ListedLedger(1), "/dev/full")
    with pytest.raises(OutputError, match="^can't write /dev/full: No space left on device$"):
        callback.on_train_step_end(None)
    callback.close()


def test_ledger_moves_progress_behind_the_batch(tmp_path: Path) -> None:
    progress = TrainingProgress(10, START)
    callback = LedgerCallBack(progress, ListedLedger(2), "")
    callback.on_train_step_end(None)
    assert (progress.step, progress.steps_done, progress.rows_done) == (11, 1, 4)
    assert progress.position == Position({0: 3, 1: 1}, 1)
    callback.on_train_step_end(None)
    assert (progress.step, progress.steps_done, progress.rows_done) == (12, 2, 8)
    assert progress.position == Position({0: 6, 1: 2}, 1)
    assert progress.dictionaries == 42


def test_audit_file_tells_each_range_of_each_step_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    callback = LedgerCallBack(TrainingProgress(6, START), ListedLedger(1), str(path))
    callback.on_train_step_end(None)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 7, "partition": 0, "first_offset": 0, "last_offset": 2, "rows": 3},
        {"step": 7, "partition": 1, "first_offset": 0, "last_offset": 0, "rows": 1},
    ]
    callback.close()


def test_checkpoints_fall_on_multiples_of_the_global_step(tmp_path: Path) -> None:
    progress, saved = TrainingProgress(7, START), list[Unit]()
    callback = checkpoint_of(progress, tmp_path, saved, every_steps=5, beside=False)
    for _ in range(9):
        finish_step(progress, callback)
    assert [unit.step for unit in saved] == [10, 15]


def test_last_save_does_nothing_where_the_step_is_saved(tmp_path: Path) -> None:
    progress, saved = TrainingProgress(4, START), list[Unit]()
    callback = checkpoint_of(progress, tmp_path, saved)
    callback.save_now()
    assert saved == []
    finish_step(progress, callback)
    callback.save_now()
    callback.save_now()
    assert [unit.step for unit in saved] == [5]


def test_failed_save_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress, saved = TrainingProgress(1, START), list[Unit]()
    callback = checkpoint_of(progress, tmp_path, saved, beside=False)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src.checkpoints.store.write_ckpt", fail)
    with pytest.raises(CheckpointError):
        finish_step(progress, callback)
    monkeypatch.undo()
    assert saved == []
    callback.save_now()
    assert [unit.step for unit in saved] == [2]


def steps_of(saved: list[Unit]) -> list[int]:
    return [unit.step for unit in saved]


def await_steps(saved: list[Unit], steps: list[int]) -> None:
    give_up_at = time.monotonic() + 30
    while steps_of(saved) != steps and time.monotonic() < give_up_at:
        time.sleep(0.001)
    assert steps_of(saved) == steps


def test_a_checkpoint_that_is_late_follows_though_no_step_does_and_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    progress, saved, gate = TrainingProgress(0, START), list[Unit](), threading.Event()
    callback = checkpoint_of(progress, tmp_path, saved, gate=gate)
    for _ in range(7):  # due at 2, 4 and 6
        finish_step(progress, callback)
    assert saved == []
    gate.set()
    await_steps(saved, [2, 7])
    callback.save_now()
    assert steps_of(saved) == [2, 7]
    assert [record.message for record in caplog.records] == [
        "step 4: the checkpoint of step 2 is still being written, so the next one comes later; "
        "a larger --save_checkpoint_steps gives each its time"
    ]


def test_a_late_checkpoint_waits_for_the_end_of_the_step(tmp_path: Path) -> None:
    progress, saved, gate = TrainingProgress(0, START), list[Unit](), threading.Event()
    callback = checkpoint_of(progress, tmp_path, saved, gate=gate)
    for _ in range(4):
        callback.on_train_step_begin(None)
        finish_step(progress, callback)
    callback.on_train_step_begin(None)
    gate.set()
    await_steps(saved, [2])
    time.sleep(0.2)
    assert steps_of(saved) == [2]
    finish_step(progress, callback)
    await_steps(saved, [2, 5])


def test_a_late_checkpoint_is_not_begun_once_training_has_ended_in_a_step(tmp_path: Path) -> None:
    progress, saved, gate = TrainingProgress(0, START), list[Unit](), threading.Event()
    callback = checkpoint_of(progress, tmp_path, saved, gate=gate)
    for _ in range(4):
        finish_step(progress, callback)
    callback.on_train_step_begin(None)  # and the loss is not finite
    callback.__exit__()
    gate.set()
    callback._writer.close()
    assert steps_of(saved) == [2]


def test_steps_at_full_speed_and_late_checkpoints_never_wait_for_each_other_for_ever(
    tmp_path: Path,
) -> None:
    progress, saved = TrainingProgress(0, START), list[Unit]()
    callback = checkpoint_of(progress, tmp_path, saved, every_steps=1)
    for _ in range(2000):
        callback.on_train_step_begin(None)
        finish_step(progress, callback)
    callback.__exit__()
    callback.save_now()
    steps = steps_of(saved)
    assert steps[-1] == 2000
    assert steps == sorted(set(steps))


def test_late_checkpoints_are_named_again_once_one_was_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    progress, saved, gate = TrainingProgress(0, START), list[Unit](), threading.Event()
    callback = checkpoint_of(progress, tmp_path, saved, gate=gate)
    for late, steps in ((4, [2, 4]), (10, [2, 4, 6, 8, 10])):
        while progress.step < late:
            if progress.step < late - 3:
                gate.set()  # the one before is written in time
                callback._writer.finish()
            else:
                gate.clear()
            finish_step(progress, callback)
        gate.set()
        await_steps(saved, steps)
        callback._writer.finish()
    assert [record.message.split(":")[0] for record in caplog.records] == ["step 4", "step 10"]


def test_a_stop_waits_for_the_checkpoint_under_way_and_saves_what_came_after_it(
    tmp_path: Path,
) -> None:
    progress, saved, gate = TrainingProgress(0, START), list[Unit](), threading.Event()
    callback = checkpoint_of(progress, tmp_path, saved, gate=gate)
    for _ in range(3):
        finish_step(progress, callback)
    threading.Timer(0.2, gate.set).start()
    callback.save_now()
    assert steps_of(saved) == [2, 3]


def test_a_stop_does_not_save_again_what_is_being_written(tmp_path: Path) -> None:
    progress, saved, gate = TrainingProgress(0, START), list[Unit](), threading.Event()
    callback = checkpoint_of(progress, tmp_path, saved, gate=gate)
    for _ in range(2):
        finish_step(progress, callback)
    threading.Timer(0.2, gate.set).start()
    callback.save_now()
    assert steps_of(saved) == [2]


def test_a_checkpoint_that_fails_beside_training_ends_it_at_the_next_step(tmp_path: Path) -> None:
    progress, saved, folder = TrainingProgress(1, START), list[Unit](), tmp_path / "ckpt"
    gate = threading.Event()
    callback = checkpoint_of(progress, folder, saved, gate=gate)
    folder.rmdir()
    finish_step(progress, callback)
    gate.set()
    callback._writer.finish()
    with pytest.raises(CheckpointError, match="No such file"):
        finish_step(progress, callback)
    with pytest.raises(CheckpointError, match="No such file"):
        callback.save_now()  # a stop at this very moment does not hide it
    assert saved == []


def test_stop_counts_the_steps_of_this_run() -> None:
    progress = TrainingProgress(1000, START)
    callback = StopCallBack(progress, StopFlag(), max_steps=2)
    finish_step(progress, callback)
    with pytest.raises(TrainingStopped, match="2 steps are done"):
        finish_step(progress, callback)


def test_flag_stops_at_the_end_of_the_step_with_its_reason() -> None:
    progress, flag = TrainingProgress(0, START), StopFlag()
    callback = StopCallBack(progress, flag, max_steps=0)
    for _ in range(100):
        finish_step(progress, callback)
    flag.set("SIGTERM")
    with pytest.raises(TrainingStopped, match="SIGTERM"):
        finish_step(progress, callback)
