"""Reports: under the real RecModel.online_train, and their parts one by one."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
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
from sklearn.metrics import log_loss, roc_auc_score

from examples.demo.run import SCORED
from src.checkpoints.copies import KeptCopies
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import Unit
from src.checkpoints.unit_writer import Moment, UnitWriter
from src.process.arrays import Array
from src.process.stop import StopFlag
from src.stream.position import Position
from src.trainer.callbacks import (
    LedgerCallBack,
    LossCallBack,
    StopCallBack,
    StreamCheckpoint,
    TrainingProgress,
    TrainingStopped,
)
from src.trainer.dataset import BatchRecord
from src.trainer.reporting import (
    ASK_AGAIN_SECONDS,
    STATE_KEY,
    LagProbe,
    MetricsCallBack,
    StepTimer,
    age_seconds,
    restored_metrics,
)
from src.watching.json_lines import JsonLines
from src.watching.metrics import ProgressiveMetrics

BATCH = 50
START = Position({0: 0, 1: 0})
ENDS = {0: 1000, 1: 40}


class ScoredRows:
    """Rows whose logits and labels are known beforehand, and the ledger of their batches."""

    def __init__(self, batches: int, seed: int = 5) -> None:
        random = np.random.default_rng(seed)
        self.logit = random.normal(-1, 1, (batches, BATCH)).astype(np.float32)
        clicks = random.random(self.logit.shape) < 1 / (1 + np.exp(-self.logit))
        self.label = clicks.astype(np.float32)
        self._records = deque(map(self.record, range(batches)))

    def record(self, batch: int) -> BatchRecord:
        oov = np.full(BATCH, 0b101 if batch % 2 else 0, np.uint32)
        position = Position({0: (batch + 1) * BATCH, 1: 0}, 0)
        return BatchRecord(position, [], BATCH, 7, self.label[batch], oov, newest_timestamp=10**6)

    def next_batch(self) -> BatchRecord:
        return self._records.popleft()

    def skip(self, batches: int) -> None:
        for _ in range(batches):
            self._records.popleft()


class PassesLogitsOn(nn.Cell):  # type: ignore[misc]
    """Returns what the training step returns: (wide loss, deep loss, logit)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor(np.zeros(1, np.float32)), name="weight")

    def construct(self, logit: ms.Tensor) -> Any:
        stepped = ops.assign_add(self.weight, ops.ones((1,), ms.float32))
        wide_loss = ops.depend(logit.mean() * 0 + 0.5, stepped)
        return wide_loss, wide_loss + 0.25, logit.reshape(-1, 1)


def reporter(
    progress: TrainingProgress,
    path: Path,
    metrics: ProgressiveMetrics | None = None,
    report_steps: int = 4,
    ends: Mapping[int, int] | None = ENDS,
    timer: StepTimer | None = None,
) -> MetricsCallBack:
    return MetricsCallBack(
        progress,
        metrics or ProgressiveMetrics(window_rows=3 * BATCH),
        timer or StepTimer(),
        LagProbe(lambda: ends),
        report_steps,
        JsonLines(str(path)),
        session=77,
    )


def step_by_step(rows: ScoredRows, batches: range, progress: TrainingProgress, *callbacks: Any):  # type: ignore[no-untyped-def]
    for number in batches:
        outputs = tuple(map(ms.Tensor, (np.float32(0.5), np.float32(0.75), rows.logit[number])))
        arguments = SimpleNamespace(net_outputs=outputs)
        context = SimpleNamespace(original_args=lambda arguments=arguments: arguments)
        progress.last_losses = (0.5, 0.75)
        for callback in callbacks:
            callback.on_train_step_end(context)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_scores(found: Mapping[str, Any], logit: Array, label: Array) -> None:
    logit, label = logit.ravel().astype(np.float64), label.ravel()
    p = 1 / (1 + np.exp(-logit))
    assert found["rows"] == logit.size
    assert found["auc"] == pytest.approx(roc_auc_score(label, logit), abs=1e-3)
    assert found["log_loss"] == pytest.approx(log_loss(label, p), rel=1e-5)
    assert found["calibration"] == pytest.approx(p.sum() / label.sum(), rel=1e-5)


def moment_of(progress: TrainingProgress, metrics: MetricsCallBack) -> Moment:
    step, position, state = progress.step, progress.position, metrics.state()
    return Moment(step, position, "t", 0, {}, lambda: None, state, bytes)


@pytest.mark.parametrize("sink_mode", [False, True], ids=["feed", "sink"])
def test_online_train_reports_the_scores_of_its_own_forward_pass_and_goes_on_after_a_restart(
    sink_mode: bool, tmp_path: Path
) -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    rows, path = ScoredRows(12), tmp_path / "metrics.jsonl"
    store = CheckpointStore(tmp_path / "ckpt", "w", 5)
    ledger = rows
    for first in (0, 6):
        unit = store.newest()
        progress = TrainingProgress(unit.step if unit else 0, START)
        timer = StepTimer()
        metrics = reporter(progress, path, restored_metrics(unit, 3 * BATCH), timer=timer)
        network = PassesLogitsOn()
        moment = partial(moment_of, progress, metrics)
        writer = UnitWriter(network, store, moment, lambda *_: None, KeptCopies())
        config = CheckpointConfig(save_checkpoint_steps=6, keep_checkpoint_max=5)
        checkpoint = StreamCheckpoint("w", str(tmp_path / "ckpt"), config, progress, writer)
        callbacks = [
            LedgerCallBack(progress, ledger, ""),
            LossCallBack(progress, ""),
            metrics,
            checkpoint,
            timer,
            StopCallBack(progress, StopFlag(), max_steps=6),
        ]
        batches = [(logit,) for logit in rows.logit[first:]]
        dataset = GeneratorDataset(batches, ["logit"], shuffle=False, python_multiprocessing=False)
        with pytest.raises(TrainingStopped):
            RecModel(network).online_train(dataset, callbacks, dataset_sink_mode=sink_mode)
        writer.wait()
        writer.close()
    lines = lines_of(path)
    assert [line["step"] for line in lines] == [4, 6, 8, 12]  # 6: the end of the first run
    assert [line["rows"] for line in lines] == [BATCH * line["step"] for line in lines]
    for line, since in zip(lines, (0, 0, 6, 6)):
        done = line["step"]
        assert_scores(line["life"], rows.logit[:done], rows.label[:done])
        assert_scores(line["window"], rows.logit[done - 3 : done], rows.label[done - 3 : done])
        assert_scores(line["since_start"], rows.logit[since:done], rows.label[since:done])
        clicks = sum(group["click_rate"] * group["rows"] for group in line["reliability"])
        assert clicks == pytest.approx(line["window"]["clicks"], rel=1e-5)
        assert (line["wide_loss"], line["deep_loss"]) == (0.5, 0.75)
        assert line["step_seconds"] > 0 and line["wait_seconds"] > 0


def test_report_tells_oov_lag_and_speed_since_the_report_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, progress = ScoredRows(8), TrainingProgress(0, START)
    path = tmp_path / "metrics.jsonl"
    metrics = reporter(progress, path)
    with caplog.at_level(logging.INFO, "src.trainer.reporting"):
        step_by_step(rows, range(8), progress, LedgerCallBack(progress, rows, ""), metrics)
    metrics.close()
    first, second = lines_of(path)
    assert first["oov_rate_by_column"] == [0.5, 0.0, 0.5, *[0.0] * 23]
    assert first["oov_rate"] == pytest.approx(1 / 26, rel=1e-6)
    assert first["lag_rows_by_partition"] == {"0": 1000 - 4 * BATCH, "1": 40}
    assert (first["lag_rows"], second["lag_rows"]) == (840, 640)
    assert first["time"] - first["lag_seconds"] == pytest.approx(1000, abs=5)
    assert first["rows_per_second"] > 0 and second["rows_per_second"] > 0
    assert (first["session"], second["step"]) == (77, 8)
    message = caplog.messages[1]
    assert message.startswith("step 8: 400 rows (")
    for part in ("AUC 0.", "log loss 0.", "calibration ", "OOV 3.8 %", "lag 640 rows and "):
        assert part in message


def test_what_is_not_known_is_null_in_the_file_and_a_question_mark_in_the_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, progress, path = ScoredRows(1), TrainingProgress(0, START), tmp_path / "metrics.jsonl"
    rows.label[:] = 0
    metrics = reporter(progress, path, report_steps=1, ends=None)
    with caplog.at_level(logging.INFO, "src.trainer.reporting"):
        step_by_step(rows, range(1), progress, LedgerCallBack(progress, rows, ""), metrics)
    metrics.close()
    (line,) = lines_of(path)
    assert line["lag_rows"] is line["window"]["auc"] is line["window"]["calibration"] is None
    assert line["rows_per_second"] is line["step_seconds"] is None  # there was only one step
    assert "(?), AUC ?, " in caplog.text and "lag ? and " in caplog.text


def test_no_report_steps_report_nothing_but_keep_the_scores(tmp_path: Path) -> None:
    rows, progress, path = ScoredRows(3), TrainingProgress(0, START), tmp_path / "metrics.jsonl"
    metrics = reporter(progress, path, report_steps=0)
    step_by_step(rows, range(3), progress, LedgerCallBack(progress, rows, ""), metrics)
    metrics.close()
    assert path.read_text() == ""
    unit = Unit(3, START, "t", 0, {}, path, metrics.state()())
    assert restored_metrics(unit, 1000).life().scores().rows == 3 * BATCH


def test_fillers_of_a_batch_that_was_not_full_are_in_no_score(tmp_path: Path) -> None:
    rows, progress, path = ScoredRows(2), TrainingProgress(0, START), tmp_path / "metrics.jsonl"
    full, part = rows.next_batch(), rows.next_batch()
    is_row = np.arange(BATCH) < 10
    part = replace(part, labels=part.labels[:10], oov=part.oov[:10], rows=10, is_row=is_row)
    rows._records.extend([full, part])
    rows.logit[1, 10:] = np.nan
    metrics = reporter(progress, path, report_steps=1)
    step_by_step(rows, range(2), progress, LedgerCallBack(progress, rows, ""), metrics)
    metrics.close()
    _, line = lines_of(path)
    assert line["rows"] == progress.rows_done == BATCH + 10
    logit = np.concatenate([rows.logit[0], rows.logit[1, :10]])
    assert_scores(line["life"], logit, np.concatenate([full.labels, part.labels]))
    assert line["oov_rate_by_column"][0] == 1.0, "of ten rows, not of fifty"


def test_end_of_training_reports_the_steps_since_the_last_report_once(tmp_path: Path) -> None:
    rows, progress, path = ScoredRows(6), TrainingProgress(0, START), tmp_path / "metrics.jsonl"
    metrics = reporter(progress, path)
    step_by_step(rows, range(6), progress, LedgerCallBack(progress, rows, ""), metrics)
    metrics.close()
    metrics.close()
    assert [line["step"] for line in lines_of(path)] == [4, 6]


def test_last_words_are_the_scores_of_all_rows_and_are_the_quickstarts_last_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, progress = ScoredRows(6), TrainingProgress(0, START)
    metrics = reporter(progress, tmp_path / "metrics.jsonl")
    with caplog.at_level(logging.INFO, "src.trainer.reporting"):
        step_by_step(rows, range(6), progress, LedgerCallBack(progress, rows, ""), metrics)
        metrics.close()
        metrics.close()
    scores = metrics.scores()
    (found,) = [match for match in map(SCORED.search, caplog.messages) if match]
    assert found[1] == f"AUC {scores.auc:.4f}, log loss {scores.log_loss:.4f}"


def test_a_unit_without_metrics_starts_them_anew_and_a_broken_one_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    older = Unit(3, START, "t", 0, {}, Path("w-1_3.ckpt"))
    assert restored_metrics(older, 10).life().scores().rows == 0
    assert caplog.messages == []
    broken = Unit(3, START, "t", 0, {}, Path("w-1_3.ckpt"), {STATE_KEY: "?"})
    assert restored_metrics(broken, 10).life().scores().rows == 0
    assert "metrics are left out" in caplog.text


def test_a_broker_that_does_not_answer_is_left_alone_for_a_while() -> None:
    now, asked = [0.0], [0]
    answers: deque[dict[int, int] | None] = deque([None, {0: 5, 1: 9}])

    def ends() -> dict[int, int] | None:
        asked[0] += 1
        return answers.popleft()

    probe = LagProbe(ends, clock=lambda: now[0])
    position = Position({0: 7, 1: 4})
    assert probe.rows_ahead(position) is None
    now[0] = ASK_AGAIN_SECONDS - 1
    assert probe.rows_ahead(position) is None
    assert asked[0] == 1
    now[0] = ASK_AGAIN_SECONDS
    assert probe.rows_ahead(position) == {0: 0, 1: 5}


def test_timer_tells_waiting_for_a_batch_from_what_the_callbacks_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter([0.0, 10.0, 12.0, 15.0, 15.5])
    monkeypatch.setattr("src.trainer.reporting.time.perf_counter", lambda: next(now))
    timer = StepTimer()
    timer.on_train_begin(None)
    timer.on_train_step_begin(None)
    assert (timer.began, timer.waited) == (12.0, 2.0)
    timer.on_train_step_end(None)
    timer.on_train_step_begin(None)
    assert timer.waited == 0.5


@pytest.mark.parametrize(("timestamp", "age"), [(-1, None), (-(10**15), None), (10**15, 0.0)])
def test_the_age_of_a_row_is_unknown_without_a_time_and_0_from_the_future(
    timestamp: int, age: float | None
) -> None:
    assert age_seconds(timestamp) == age
