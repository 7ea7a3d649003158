"""The evaluation of a file: on a real checkpoint, against the network's own losses."""

from __future__ import annotations

import dataclasses
import gzip
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.documented.step import DOCUMENTED_CONFIG, own_step
from examples import evaluate
from examples.dictionaries.processing import Processed, process
from examples.evaluate import main
from examples.evaluation import evaluation
from examples.evaluation import scorer as scorer_module
from examples.evaluation.errors import EvaluationError
from examples.evaluation.evaluation import describe
from examples.evaluation.scorer import load_scorer
from examples.sample.rows import write_sample
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import Unit
from src.dictionaries.dictionaries import Dictionaries, load_dictionaries
from src.features.feature_builder import FeatureBuilder
from src.model.train_step import TrainStepWrap
from src.rows import row_file
from src.rows.criteo import CATEGORICAL_COLUMNS
from src.rows.parsing import parse_messages
from src.stream.position import Position

ROWS = 304  # a multiple of 16, see BLOCK_ROWS
CONFIG = dataclasses.replace(
    DOCUMENTED_CONFIG, vocab_size=3000, emb_dim=4, deep_layer_dim=(8, 4), deep_layer_act="tanh"
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model after a step on the file's rows, and its checkpoint."""

    step: TrainStepWrap
    data: Path
    made: Processed
    dictionaries: Dictionaries
    unit: Unit

    def flags(self, ckpt: Path) -> Sequence[str]:
        names = ("max_dict", "min_dict", "map_dict")
        files = [f"--{name}={getattr(self.made, name)}" for name in names]
        return [f"--ckpt={ckpt}", f"--data={self.data}", *files]


@pytest.fixture(autouse=True)
def no_logging_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging set up in a test would hold on to the stderr that pytest captures it with."""
    monkeypatch.setattr(evaluate, "configure_logging", lambda: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    folder = tmp_path_factory.mktemp("evaluate")
    history, data = folder / "history.tsv", folder / "data.tsv"
    write_sample([history], 1500)
    write_sample([data], ROWS, start_row=1500)
    made = process([history], folder, vocab_size=CONFIG.vocab_size, keep_most_frequent=True)
    dictionaries = load_dictionaries(made.max_dict, made.min_dict, made.map_dict)
    step = own_step(CONFIG, seed=3)
    rows = parse_messages(data.read_bytes().splitlines())
    features = FeatureBuilder(dictionaries).build(rows)
    step(*(Tensor(values) for values in (*features, rows.label.reshape(-1, 1))))
    store = CheckpointStore(folder / "ckpt", "widedeep_train", 5)
    model = {"deep_layer_act": "tanh"}
    position = Position({0: ROWS})
    unit = store.save(step, 1, position, "t", dictionaries.fingerprint, model)
    return Trained(step, data, made, dictionaries, unit)


def wanted_scores(trained: Trained, lines: Sequence[bytes]) -> tuple[float, float]:
    rows = parse_messages(lines)
    features = FeatureBuilder(trained.dictionaries).build(rows)
    logit = trained.step.model(*map(Tensor, features)).asnumpy().ravel().astype(np.float64)
    p = 1 / (1 + np.exp(-logit))
    return float(roc_auc_score(rows.label, logit)), float(log_loss(rows.label, p))


@pytest.mark.parametrize("place", ["file", "folder"])
def test_scores_are_those_of_the_checkpoints_network(
    trained: Trained, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ckpt = trained.unit.path if place == "file" else trained.unit.path.parent
    assert main(trained.flags(ckpt)) == 0
    table = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    found = {row[0]: row[1] for row in table}
    auc, loss = wanted_scores(trained, trained.data.read_bytes().splitlines())
    assert float(found["AUC"]) == pytest.approx(auc, abs=2e-3)  # few rows: ties in a bin show
    assert float(found["log loss"]) == pytest.approx(loss, abs=2e-6)
    assert (found["rows"], found["bad rows"]) == (str(ROWS), "0")


def test_a_checkpoint_in_parts_gives_the_same_scores(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main(trained.flags(trained.unit.path)) == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr("src.checkpoints.store.PART_BYTES", 5000)
    unit = CheckpointStore(tmp_path, "widedeep_train", 5).save(
        trained.step,
        1,
        trained.unit.position,
        "t",
        trained.dictionaries.fingerprint,
        trained.unit.model,
    )
    assert "embedding_table" in unit.cut
    for ckpt in (tmp_path, unit.path, unit.files[3]):
        assert main(trained.flags(ckpt)) == 0
        assert capsys.readouterr().out == expected
    unit.manifest_path.unlink()
    assert main(trained.flags(unit.path)) == 1
    assert "is one part of a checkpoint, and its manifest widedeep_train-1_1.json" in caplog.text


def test_oov_is_counted_by_column_and_missing_values_apart(trained: Trained) -> None:
    scorer = load_scorer(trained.unit.path, "", trained.dictionaries)
    found = evaluation.evaluate(scorer, trained.data, 0, None)
    fields = [line.split(b"\t")[14:] for line in trained.data.read_bytes().splitlines()]
    known = trained.dictionaries.id_by_token
    for place, column in enumerate(CATEGORICAL_COLUMNS):
        values = [row[place].decode() for row in fields]
        assert found.missing[place] == values.count("")
        assert found.oov[place] == sum(f"{column}_{value}" not in known for value in values)
    assert found.oov.sum() > 0
    lines = describe(found).splitlines()
    assert [line.split()[0] for line in lines[-26:]] == list(CATEGORICAL_COLUMNS)


def test_batches_and_a_part_of_the_file_give_the_same_scores_as_these_rows_alone(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (evaluation, scorer_module, row_file):
        monkeypatch.setattr(module, "BLOCK_ROWS", 64)
    scorer = load_scorer(trained.unit.path, "", trained.dictionaries)
    found = evaluation.evaluate(scorer, trained.data, 10, 208).scores()
    _, loss = wanted_scores(trained, trained.data.read_bytes().splitlines()[10:218])
    assert found.rows == 208
    assert found.log_loss == pytest.approx(loss, rel=1e-6)


def test_bad_rows_are_named_by_line_and_left_out(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.tsv"
    lines = trained.data.read_bytes().splitlines()[:20]
    path.write_bytes(b"\n".join([*lines[:7], b"no row", *lines[7:]]) + b"\n")
    scorer = load_scorer(trained.unit.path, "", trained.dictionaries)
    found = evaluation.evaluate(scorer, path, 0, None)
    assert (found.scores().rows, found.bad_rows) == (20, 1)
    assert f"bad row: {path}:8, row: 1 fields" in caplog.text


def test_a_compressed_file_and_a_pipe_give_the_same_scores(
    trained: Trained, tmp_path: Path
) -> None:
    scorer = load_scorer(trained.unit.path, "", trained.dictionaries)
    wanted = evaluation.evaluate(scorer, trained.data, 0, None).scores()
    (tmp_path / "day_1").write_bytes(gzip.compress(trained.data.read_bytes()))
    assert evaluation.evaluate(scorer, tmp_path / "day_1", 0, None).scores() == wanted
    with subprocess.Popen(["cat", str(tmp_path / "day_1")], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        pipe = f"/dev/fd/{cat.stdout.fileno()}"
        assert evaluation.evaluate(scorer, pipe, 0, None).scores() == wanted


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        (b"", [], "no rows to score in"),
        (b"label,I1\n", [], "line 1: 1 fields, expected 40"),
        (b"no row\n", ["--skip_rows=1"], "no rows to score in"),
        (b"no row\n" * 3, ["--skip_rows=1", "--max_bad_fraction=1e-4"], "a broken feed: 2 of the"),
    ],
)
def test_a_file_without_rows_is_one_line_and_exit_code_1(
    trained: Trained,
    tmp_path: Path,
    content: bytes,
    flags: list[str],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "rows.tsv").write_bytes(content)
    named = [flag for flag in trained.flags(trained.unit.path) if not flag.startswith("--data")]
    assert main([*named, f"--data={tmp_path / 'rows.tsv'}", *flags]) == 1
    (error,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert f"{tmp_path / 'rows.tsv'}" in error and said in error


def test_negative_numbers_of_lines_are_refused(trained: Trained) -> None:
    for flag in ("--skip_rows=-1", "--rows=-1"):
        with pytest.raises(SystemExit) as caught:
            main([*trained.flags(trained.unit.path), flag])
        assert caught.value.code == 2


def test_other_dictionaries_than_the_checkpoints_are_refused(trained: Trained) -> None:
    bounds = {**trained.dictionaries.max_by_column, "I1": 1e9}
    other = dataclasses.replace(trained.dictionaries, max_by_column=bounds)
    with pytest.raises(EvaluationError, match="was trained with dictionaries of fingerprint"):
        load_scorer(trained.unit.path, "", other)


def test_newest_valid_checkpoint_is_used_and_files_being_written_stay(
    trained: Trained, tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path, "w", 5)
    described = ("t", trained.dictionaries.fingerprint, {"deep_layer_act": "tanh"})
    good = store.save(trained.step, 5, Position({0: 1}), *described)
    damaged = store.save(trained.step, 10, Position({0: 2}), *described)
    damaged.manifest_path.unlink()
    damaged.manifest_path.write_text(json.dumps({"torn": True}))
    writing = tmp_path / ".w-1_15.ckpt.writing.ckpt"
    writing.touch()
    assert scorer_module._find_unit(tmp_path, "w") == good
    assert writing.exists()


def test_weights_alone_are_scored_without_their_manifest(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(trained.unit.path.read_bytes())
    model = load_scorer(alone, "", trained.dictionaries).network.network
    assert "no manifest" in caplog.text
    table = model.embedding_table.asnumpy()
    np.testing.assert_array_equal(table, trained.step.model.embedding_table.asnumpy())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--ckpt=missing.ckpt", "missing.ckpt: there is no such file"),
        ("--ckpt=.", "there is no valid checkpoint widedeep_train-1_... in"),
        ("--data=missing.tsv", "missing.tsv"),
    ],
)
def test_what_is_missing_is_one_line_and_exit_code_1(
    trained: Trained,
    flag: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*trained.flags(trained.unit.path), flag]) == 1
    assert message in caplog.text


def test_a_header_is_refused_by_name(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"label\tI1\n" + trained.data.read_bytes())
    assert main([*trained.flags(trained.unit.path), f"--data={path}"]) == 1
    assert "header" in caplog.text
