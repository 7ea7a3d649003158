"""A start with a file's rows: the checkpoint it leaves, its scores and its vocabulary as a file."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from examples import evaluate, export_vocabulary, warm_start
from examples.dictionaries.processing import Processed, process
from examples.evaluation import evaluation
from examples.evaluation.scorer import load_scorer
from examples.sample.rows import write_sample
from src.checkpoints.parts import read_vocabulary
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import Unit, read_unit
from src.dictionaries.dictionaries import load_dictionaries
from src.dictionaries.growing.vocabulary import GrowthSettings, Vocabulary
from src.features.column_functions import BUCKETS
from src.rows.criteo import CATEGORICAL_COLUMNS, FIELD_SIZE
from src.rows.row_file import parsed_blocks

ROWS = 330
BATCH = 50
MODEL = ("--emb_dim=4", "--deep_layer_dim=8,4", f"--batch_size={BATCH}", "--sparse")
GROWING = ("--dense_transform=bucket", "--admit_count=1")


@pytest.fixture(autouse=True)
def no_logging_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging set up in a test would hold on to the stderr that pytest captures it with."""
    for module in (evaluate, export_vocabulary, warm_start):
        monkeypatch.setattr(module, "configure_logging", lambda: None)


class Files:
    """Rows, the dictionaries of other rows, and scripts run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data.tsv"
        write_sample([folder / "history.tsv"], 1500)
        write_sample([self.data], ROWS, start_row=1500)
        self.made: Processed = process([folder / "history.tsv"], folder)
        self.ids = len(self.made.dictionaries.id_by_token)
        self.vocab_size = self.ids + 13 * BUCKETS + 3000

    def dictionaries(self) -> Sequence[str]:
        names = ("max_dict", "min_dict", "map_dict")
        return [f"--{name}={getattr(self.made, name)}" for name in names]

    def warm_start(self, name: str, *flags: str) -> Unit:
        folder = self.folder / name
        sizes = (f"--vocab_size={self.vocab_size}", f"--ckpt_path={folder}")
        arguments = [f"--data={self.data}", *self.dictionaries(), *MODEL, *sizes, *flags]
        assert warm_start.main(arguments) == 0
        (path,) = folder.glob("*.ckpt")
        return read_unit(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("warm_start"))


@pytest.fixture(scope="module")
def grown(files: Files) -> Unit:
    return files.warm_start("grown", *GROWING)


def test_every_whole_batch_is_trained_on_and_no_position_is_claimed(grown: Unit) -> None:
    assert grown.step == ROWS // BATCH
    assert dict(grown.position.offsets) == {}
    assert grown.model["growing_vocabulary"] is True


def test_epochs_and_rows_say_how_much_is_trained(files: Files) -> None:
    assert files.warm_start("twice", "--epochs=2", "--rows=150").step == 2 * 3


def test_checkpoints_that_are_there_are_not_removed(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of a trainer are of later steps, and a store removes such ones."""
    unit = files.warm_start("there", "--rows=50")
    flags = [f"--data={files.data}", *files.dictionaries(), *MODEL, "--rows=50"]
    flags += [f"--vocab_size={files.vocab_size}", f"--ckpt_path={unit.path.parent}"]
    assert warm_start.main(flags) == 1
    assert f"{unit.path.parent} holds checkpoints already, such as {unit.path.name}" in caplog.text
    assert read_unit(unit.path) == unit
    assert warm_start.main([*flags, "--fresh"]) == 0
    (aside,) = unit.path.parent.glob("before-*")
    assert read_unit(aside / unit.path.name).step == unit.step


def test_a_folder_that_a_trainer_uses_is_refused_before_training(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, "w", 5)
    store.lock()
    flags = [f"--data={tmp_path / 'none'}", *files.dictionaries(), *MODEL]
    flags += [f"--vocab_size={files.vocab_size}", f"--ckpt_path={tmp_path}"]
    assert warm_start.main(flags) == 1
    assert f"another trainer is using {tmp_path}" in caplog.text
    store.unlock()


def test_the_vocabulary_holds_the_files_values_that_the_dictionaries_lack(
    files: Files, grown: Unit
) -> None:
    saved = read_vocabulary(grown)
    assert saved is not None
    tokens = dict(Vocabulary.load(saved, GrowthSettings(1, 1)).items())
    known = files.made.dictionaries.id_by_token
    rows = [line.split(b"\t")[14:] for line in files.data.read_bytes().splitlines()]
    seen = {
        f"C{place + 1}_{row[place].decode()}"
        for row in rows[: ROWS - ROWS % BATCH]
        for place in range(26)
    }
    assert set(tokens) == seen - set(known)
    assert min(tokens.values()) == files.ids


def test_an_exported_vocabulary_is_a_dictionary_that_gives_the_same_ids(
    files: Files, grown: Unit, tmp_path: Path
) -> None:
    output = tmp_path / "grown.pkl"
    flags = [f"--ckpt={grown.path.parent}", f"--map_dict={files.made.map_dict}"]
    assert export_vocabulary.main([*flags, f"--output={output}"]) == 0
    exported = load_dictionaries(files.made.max_dict, files.made.min_dict, output)
    scorer = load_scorer(grown.path, "", files.made.dictionaries)
    _, rows = next(iter(parsed_blocks(files.data)))
    (ids, *_), oov = scorer.inputs(rows)
    for place, name in enumerate(CATEGORICAL_COLUMNS):
        column = rows.categorical[name].astype(object).fillna("")
        oov_id = int(exported.oov_ids[place])
        wanted = [exported.id_by_token.get(f"{name}_{value}", oov_id) for value in column]
        assert ids[:, FIELD_SIZE - 26 + place].tolist() == wanted
    assert (oov[: ROWS - ROWS % BATCH] == 0).all()


def test_a_vocabulary_that_grew_beside_another_dictionary_is_not_joined_to_it(
    files: Files, grown: Unit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = {**files.made.dictionaries.id_by_token, "C1_new": files.ids}
    (tmp_path / "other.pkl").write_bytes(pickle.dumps(ids))
    flags = [f"--ckpt={grown.path}", f"--map_dict={tmp_path / 'other.pkl'}"]
    assert export_vocabulary.main([*flags, f"--output={tmp_path / 'out.pkl'}"]) == 1
    assert "it has grown beside another dictionary" in caplog.text
    assert not (tmp_path / "out.pkl").exists()


def test_a_checkpoint_without_a_vocabulary_has_none_to_export(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unit = files.warm_start("plain", "--rows=50")
    flags = [f"--ckpt={unit.path}", f"--map_dict={files.made.map_dict}"]
    assert export_vocabulary.main([*flags, f"--output={tmp_path / 'out.pkl'}"]) == 1
    assert "was trained without admit_count" in caplog.text


def test_a_start_is_the_same_every_time(files: Files, grown: Unit) -> None:
    again = files.warm_start("again", *GROWING)
    one, other = ms.load_checkpoint(str(grown.path)), ms.load_checkpoint(str(again.path))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name].asnumpy(), other[name].asnumpy(), err_msg=name)


def test_a_file_of_less_than_a_batch_is_an_error(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = [f"--data={files.data}", *files.dictionaries(), *MODEL, "--rows=49"]
    sizes = [f"--vocab_size={files.vocab_size}", f"--ckpt_path={tmp_path}"]
    assert warm_start.main([*arguments, *sizes]) == 1
    assert "has no 50 good rows" in caplog.text


def test_bad_lines_of_a_compressed_file_are_left_out(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = files.data.read_bytes().splitlines(keepends=True)
    (tmp_path / "day_0").write_bytes(
        gzip.compress(b"".join([*lines[:60], b"no row\n", *lines[60:]]))
    )
    arguments = [f"--data={tmp_path / 'day_0'}", *files.dictionaries(), *MODEL]
    sizes = [f"--vocab_size={files.vocab_size}", f"--ckpt_path={tmp_path / 'ckpt'}"]
    assert warm_start.main([*arguments, *sizes, "--max_bad_fraction=0"]) == 1
    assert "day_0: a broken feed: 1 of the last" in caplog.text
    assert warm_start.main([*arguments, *sizes]) == 0
    assert f"bad row: {tmp_path / 'day_0'}:61, row: 1 fields, expected 40" in caplog.text


def test_a_pipe_is_not_read_twice(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--data=-", "--epochs=2", *files.dictionaries(), *MODEL]
    sizes = [f"--vocab_size={files.vocab_size}", f"--ckpt_path={tmp_path}"]
    assert warm_start.main([*arguments, *sizes]) == 1
    assert "--epochs=2 reads the rows more than once" in caplog.text


def test_a_vocabulary_too_small_for_the_buckets_is_an_error(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = [f"--data={files.data}", *files.dictionaries(), *MODEL, *GROWING]
    sizes = [f"--vocab_size={files.ids + 100}", f"--ckpt_path={tmp_path}"]
    assert warm_start.main([*arguments, *sizes]) == 1
    assert "with dense_transform bucket" in caplog.text


def test_a_model_with_crosses_is_scored_by_the_mean_of_both_learners(files: Files) -> None:
    crossed = files.warm_start("crossed", *GROWING, "--cross_bits=14", "--deep_pairs")
    scorer = load_scorer(crossed.path, "", files.made.dictionaries)
    _, rows = next(iter(parsed_blocks(files.data)))
    inputs, _ = scorer.inputs(rows)
    ids, weights, _, keys = inputs
    saved = ms.load_checkpoint(str(crossed.path))["cross_weight"].asnumpy()
    assert np.count_nonzero(saved) > 1000
    left, right = np.triu_indices(FIELD_SIZE, k=1)
    crosses = saved[(keys[:, left] + keys[:, right]) % len(saved)].sum(axis=1)
    net = scorer.network.network(ms.Tensor(ids), ms.Tensor(weights)).asnumpy().ravel()
    found = evaluation._logits(scorer.network, inputs).ravel()
    np.testing.assert_allclose(found, (net + crosses) / 2, atol=1e-5)
    assert np.abs(crosses).max() > 0.1
