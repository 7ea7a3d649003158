"""Checkpoints of real cells with real optimizers: whole, verified, bounded in number."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from crc32c import crc32c
from mindspore import nn

from src.checkpoints import unit as unit_module
from src.checkpoints.locking import LOCK
from src.checkpoints.parts import read_vocabulary
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import CheckpointError, Unit
from src.stream.position import Position

POSITION = Position({0: 1200, 1: 1100}, 1)
TOPIC = "clicks"
DICTIONARIES = 0xFEDCBA9876543210
MODEL = {"vocab_size": 10, "deep_layer_dim": [4, 2]}


def make_network(seed: int = 1, units: int = 4) -> nn.Cell:
    """A dense layer with Adam, whose moments and powers are parameters of the cell too."""
    ms.set_seed(seed)
    dense = nn.Dense(3, units)
    network = nn.TrainOneStepCell(
        nn.WithLossCell(dense, nn.MSELoss()), nn.Adam(dense.get_parameters())
    )
    network.set_train()
    return network


def train(network: nn.Cell, steps: int = 2) -> None:
    generator = np.random.default_rng(5)
    for _ in range(steps):
        features = generator.random((8, 3)).astype(np.float32)
        network(ms.Tensor(features), ms.Tensor(features @ np.ones((3, 4), np.float32)))


def values(network: nn.Cell) -> dict[str, np.ndarray[Any, Any]]:
    return {item.name: item.asnumpy().copy() for item in network.get_parameters()}


def assert_bitwise_equal(
    one: dict[str, np.ndarray[Any, Any]], other: dict[str, np.ndarray[Any, Any]]
) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert one[name].tobytes() == other[name].tobytes(), name


def save(store: CheckpointStore, step: int, network: nn.Cell, **changes: Any) -> Unit:
    described = {"topic": TOPIC, "dictionaries": DICTIONARIES, "model": MODEL, **changes}
    return store.save(network, step, Position({0: step * 10, 1: step * 9}, 1), **described)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK}


def damage(path: Path, content: bytes) -> None:
    """Replaces a file; MindSpore leaves its own read-only."""
    path.unlink()
    path.write_bytes(content)


@pytest.fixture
def network() -> nn.Cell:
    return make_network()


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "ckpt", "widedeep_train", 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ckpt"


def test_unit_comes_back_as_it_was_saved(store: CheckpointStore, network: nn.Cell) -> None:
    saved = store.save(network, 100, POSITION, TOPIC, DICTIONARIES, MODEL)
    assert store.newest() == saved
    assert saved.position == POSITION
    assert (saved.step, saved.topic, saved.dictionaries) == (100, TOPIC, DICTIONARIES)
    assert saved.model == MODEL


def test_what_goes_with_the_weights_comes_back_under_the_manifests_checksum(
    store: CheckpointStore, network: nn.Cell
) -> None:
    unit = save(store, 3, network, extra={"metrics": "QUJD" * 100_000, "more": [1, None]})
    found = store.newest()
    assert found is not None and found.extra == unit.extra
    assert found.extra["more"] == [1, None]
    text = unit.manifest_path.read_text()
    damage(unit.manifest_path, text.replace("QUJD", "QUJE", 1).encode())
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        store.newest()


def test_a_unit_from_before_there_was_more_than_weights_is_still_read(
    store: CheckpointStore, network: nn.Cell
) -> None:
    unit = save(store, 3, network)
    fields = json.loads(unit.manifest_path.read_bytes())
    del fields["extra"], fields["manifest_crc32c"]
    fields["manifest_crc32c"] = f"{crc32c(json.dumps(fields, sort_keys=True).encode()):08x}"
    damage(unit.manifest_path, json.dumps(fields).encode())
    assert store.newest() == unit


def test_training_goes_on_from_a_restored_unit_bit_by_bit(store: CheckpointStore) -> None:
    undisturbed = make_network()
    train(undisturbed, 2)
    unit = save(store, 2, undisturbed)
    train(undisturbed, 3)
    resumed = make_network(seed=99)
    store.restore(unit, resumed)
    train(resumed, 3)
    assert_bitwise_equal(values(resumed), values(undisturbed))


def test_restoring_brings_back_optimizer_state(store: CheckpointStore, network: nn.Cell) -> None:
    train(network)
    unit = save(store, 2, network)
    other = make_network(seed=7)
    store.restore(unit, other)
    restored = values(other)
    assert_bitwise_equal(restored, values(network))
    assert any("moment1" in name and array.any() for name, array in restored.items())


def test_a_grown_vocabulary_comes_back_and_is_no_parameter(
    store: CheckpointStore, network: nn.Cell
) -> None:
    before = values(network)
    grown = bytes(range(256)) * 5
    unit = save(store, 3, network, vocabulary=grown)
    assert read_vocabulary(unit) == grown
    other = make_network(seed=9)
    store.restore(unit, other)
    assert_bitwise_equal(values(other), before)
    loaded = ms.load_checkpoint(str(unit.path))
    assert ms.load_param_into_net(make_network(), loaded)[0] == []


def test_a_unit_without_a_vocabulary_has_none(store: CheckpointStore, network: nn.Cell) -> None:
    assert read_vocabulary(save(store, 3, network)) is None


def test_ckpt_file_is_readable_by_mindspore_alone(
    store: CheckpointStore, folder: Path, network: nn.Cell
) -> None:
    save(store, 100, network)
    loaded = ms.load_checkpoint(str(folder / "widedeep_train-1_100.ckpt"))
    assert_bitwise_equal({name: item.asnumpy() for name, item in loaded.items()}, values(network))


def test_unit_is_two_files_and_nothing_else(
    store: CheckpointStore, folder: Path, network: nn.Cell
) -> None:
    save(store, 100, network)
    assert names(folder) == {"widedeep_train-1_100.ckpt", "widedeep_train-1_100.json"}


def test_manifest_tells_step_position_topic_and_checksum(
    store: CheckpointStore, folder: Path, network: nn.Cell
) -> None:
    store.save(network, 100, POSITION, TOPIC, DICTIONARIES, MODEL)
    fields = json.loads((folder / "widedeep_train-1_100.json").read_text())
    assert (fields["format"], fields["step"], fields["topic"]) == (1, 100, TOPIC)
    assert fields["position"] == {"offsets": {"0": 1200, "1": 1100}, "last_partition": 1}
    assert fields["dictionaries"] == "fedcba9876543210"
    assert fields["checkpoint"] == "widedeep_train-1_100.ckpt"
    assert fields["bytes"] == (folder / fields["checkpoint"]).stat().st_size


def test_no_checkpoints_is_none_and_the_folder_is_made(
    store: CheckpointStore, folder: Path
) -> None:
    assert folder.is_dir()
    assert store.newest() is None


def test_newest_goes_by_number_not_by_name(store: CheckpointStore, network: nn.Cell) -> None:
    for step in (90, 1000):
        save(store, step, network)
    newest = store.newest()
    assert newest is not None and newest.step == 1000


def test_torn_newest_is_named_and_the_one_before_is_used(
    store: CheckpointStore, folder: Path, network: nn.Cell, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 100, network)
    torn = save(store, 200, network).path
    content = torn.read_bytes()
    generator = np.random.default_rng(3)
    cuts = {0, 1, len(content) // 2, len(content) - 1, *generator.integers(0, len(content), 20)}
    for cut in sorted(cuts):
        damage(torn, content[:cut])
        caplog.clear()
        newest = store.newest()
        assert newest is not None and newest.step == 100, cut
        assert f"{torn} has {cut} bytes, expected {len(content)}" in caplog.text
        assert caplog.records[0].levelno == logging.WARNING


def test_torn_manifest_falls_back_at_every_byte(
    store: CheckpointStore, folder: Path, network: nn.Cell, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 100, network)
    manifest = save(store, 200, network).manifest_path
    content = manifest.read_bytes()
    for cut in range(len(content)):
        manifest.write_bytes(content[:cut])
        caplog.clear()
        newest = store.newest()
        assert newest is not None and newest.step == 100, cut
        assert f"{manifest} is damaged" in caplog.text


def test_flipped_bit_in_the_weights_falls_back(
    store: CheckpointStore, folder: Path, network: nn.Cell, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 100, network)
    path = save(store, 200, network).path
    content = path.read_bytes()
    for place in np.random.default_rng(4).integers(0, len(content), 20):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(place) % 8
        damage(path, bytes(flipped))
        caplog.clear()
        newest = store.newest()
        assert newest is not None and newest.step == 100
        assert f"{path} has checksum" in caplog.text


def test_flipped_bit_in_the_manifest_never_changes_what_is_read(
    store: CheckpointStore, folder: Path, network: nn.Cell
) -> None:
    save(store, 100, network)
    unit = save(store, 200, network)
    content = unit.manifest_path.read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        unit.manifest_path.write_bytes(bytes(flipped))
        newest = store.newest()
        assert newest is not None and (newest == unit or newest.step == 100), place


def test_manifest_without_its_weights_falls_back(
    store: CheckpointStore, network: nn.Cell, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 100, network)
    path = save(store, 200, network).path
    path.unlink()
    newest = store.newest()
    assert newest is not None and newest.step == 100
    assert f"{path}: No such file or directory" in caplog.text


def test_manifest_of_another_format_is_named(
    store: CheckpointStore,
    network: nn.Cell,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save(store, 100, network)
    monkeypatch.setattr(unit_module, "FORMAT", 3)
    save(store, 200, network)
    monkeypatch.undo()
    newest = store.newest()
    assert newest is not None and newest.step == 100
    assert "has format 3, expected at most 2" in caplog.text


def test_units_that_are_all_damaged_are_an_error(store: CheckpointStore, network: nn.Cell) -> None:
    for step in (100, 200):
        damage(save(store, step, network).path, b"")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints in .* is valid"):
        store.newest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topic": "other"}, "another topic: other in the checkpoint, clicks here"),
        (
            {"dictionaries": 0xAB},
            "another dictionaries: 00000000000000ab in the checkpoint, fedcba9876543210 here",
        ),
        (
            {"model": {**MODEL, "vocab_size": 11}},
            "another vocab_size: 11 in the checkpoint, 10 here",
        ),
        (
            {"model": {"vocab_size": 10}},
            r"another deep_layer_dim: None in the checkpoint, \[4, 2\] here",
        ),
    ],
)
def test_unit_that_does_not_fit_is_refused_with_both_values(
    changes: dict[str, Any], message: str, store: CheckpointStore, network: nn.Cell
) -> None:
    unit = save(store, 100, network, **changes)
    with pytest.raises(CheckpointError, match=message):
        store.check(unit, TOPIC, DICTIONARIES, MODEL)


def test_fitting_unit_passes_the_check_also_where_a_tuple_became_a_list(
    store: CheckpointStore, network: nn.Cell
) -> None:
    shape = {"vocab_size": 10, "deep_layer_dim": (4, 2)}
    saved = save(store, 100, network, model=shape)
    newest = store.newest()
    assert newest == saved
    store.check(saved, TOPIC, DICTIONARIES, shape)


def test_restore_names_a_shape_that_differs_and_changes_nothing(
    store: CheckpointStore, network: nn.Cell
) -> None:
    unit = save(store, 100, make_network(units=5))
    before = values(network)
    with pytest.raises(
        CheckpointError, match=r"Float32\(5, 3\) in the checkpoint, Float32\(4, 3\)"
    ):
        store.restore(unit, network)
    assert_bitwise_equal(values(network), before)


def test_restore_names_parameters_that_one_side_lacks(
    store: CheckpointStore, network: nn.Cell
) -> None:
    bare = nn.Dense(3, 4)
    with pytest.raises(CheckpointError, match="the network lacks .*moment1"):
        store.restore(save(store, 100, network), bare)
    with pytest.raises(CheckpointError, match="the checkpoint lacks .*moment1"):
        store.restore(save(store, 200, bare), network)


def test_oldest_units_beyond_keep_max_are_removed_whole(tmp_path: Path, network: nn.Cell) -> None:
    store = CheckpointStore(tmp_path, "w", 2)
    for step in (8, 9, 10, 11):
        save(store, step, network)
    assert names(tmp_path) == {"w-1_10.ckpt", "w-1_10.json", "w-1_11.ckpt", "w-1_11.json"}


@pytest.mark.parametrize("keep_max", [1, 2])
def test_unit_just_written_is_kept_where_damaged_ones_are_newer(
    keep_max: int, tmp_path: Path, network: nn.Cell
) -> None:
    for step in (100, 200, 300):
        unit = save(CheckpointStore(tmp_path, "w", 3), step, network)
    damage(unit.path, b"torn")
    store = CheckpointStore(tmp_path, "w", keep_max)
    newest = store.newest()
    assert newest is not None and newest.step == 200
    save(store, 250, network)
    newest = store.newest()
    assert newest is not None and newest.step == 250
    assert "w-1_300.json" not in names(tmp_path)
    assert len(names(tmp_path)) == 2 * keep_max


def test_damaged_unit_is_overwritten_when_training_reaches_its_step_again(
    store: CheckpointStore, network: nn.Cell
) -> None:
    save(store, 100, network)
    damage(save(store, 200, network).path, b"torn")
    assert save(store, 200, network) == store.newest()


def test_leftovers_of_cut_off_writes_are_removed_with_a_log_line(
    store: CheckpointStore, folder: Path, network: nn.Cell, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    save(store, 200, network)
    leftovers = [
        ".widedeep_train-1_300.ckpt.writing.ckpt",
        ".widedeep_train-1_300.json.0badcafe.tmp",
        "widedeep_train-1_100.ckpt",
    ]
    for name in leftovers:
        (folder / name).write_bytes(b"torn")
    newest = store.newest()
    assert newest is not None and newest.step == 200
    assert names(folder) == {"widedeep_train-1_200.ckpt", "widedeep_train-1_200.json"}
    for name in leftovers:
        assert f"removing {folder / name}" in caplog.text


def test_files_that_are_not_ours_stay(
    store: CheckpointStore, folder: Path, network: nn.Cell
) -> None:
    save(store, 200, network)
    foreign = {"notes.json", "other-1_5.ckpt", "widedeep_train-1_300.ckpt", "widedeep_train.meta"}
    for name in foreign:
        (folder / name).write_bytes(b"mine")
    assert store.newest() is not None
    assert foreign < names(folder)


def test_weights_without_manifest_stay_where_there_is_no_unit(
    store: CheckpointStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "widedeep_train-1_100.ckpt").write_bytes(b"from elsewhere")
    assert store.newest() is None
    assert names(folder) == {"widedeep_train-1_100.ckpt"}
    assert "has no manifest beside it" in caplog.text


def test_prefix_with_glob_characters_finds_its_own_leftovers(
    tmp_path: Path, network: nn.Cell
) -> None:
    store = CheckpointStore(tmp_path, "w[1]", 2)
    save(store, 5, network)
    (tmp_path / ".w[1]-1_6.ckpt.writing.ckpt").write_bytes(b"torn")
    newest = store.newest()
    assert newest is not None and newest.step == 5
    assert names(tmp_path) == {"w[1]-1_5.ckpt", "w[1]-1_5.json"}


def fail_with_full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "step_of_write", ["write_ckpt", "os.replace", "fsync_directory", "atomic_write_bytes"]
)
def test_full_disk_at_any_step_is_one_line_and_leaves_the_older_unit_alone(
    step_of_write: str,
    store: CheckpointStore,
    folder: Path,
    network: nn.Cell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(store, 100, network)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(f"src.checkpoints.store.{step_of_write}", fail_with_full_disk)
    with pytest.raises(CheckpointError) as refused:
        save(store, 200, network)
    monkeypatch.undo()
    expected = f"can't write checkpoint {folder}/widedeep_train-1_200.ckpt: No space left on device"
    assert str(refused.value) == expected
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_write_that_stops_half_way_leaves_nothing(
    store: CheckpointStore, folder: Path, network: nn.Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 100, network)

    def half(path: Path, entries: Any) -> None:
        path.write_bytes(b"torn")
        fail_with_full_disk()

    monkeypatch.setattr("src.checkpoints.store.write_ckpt", half)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(store, 200, network)
    assert names(folder) == {"widedeep_train-1_100.ckpt", "widedeep_train-1_100.json"}


def test_crash_between_weights_and_manifest_leaves_the_unit_before(
    store: CheckpointStore, folder: Path, network: nn.Cell
) -> None:
    save(store, 100, network)
    save(store, 200, network).manifest_path.unlink()
    newest = CheckpointStore(folder, "widedeep_train", 5).newest()
    assert newest is not None and newest.step == 100


def test_old_unit_that_cannot_be_removed_is_a_warning(
    tmp_path: Path,
    network: nn.Cell,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = CheckpointStore(tmp_path, "w", 1)
    save(store, 1, network)

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("src.checkpoints.store.remove_unit", refuse)
    assert save(store, 2, network).step == 2
    assert "w-1_1.json: Permission denied" in caplog.text


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/ckpt: Not a directory"):
        CheckpointStore(tmp_path / "file" / "ckpt", "w", 1)


def test_set_aside_moves_units_whole_and_twice_overwrites_nothing(
    store: CheckpointStore, folder: Path, network: nn.Cell, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        save(store, 100, network)
        store.set_aside()
        assert store.newest() is None
    aside = sorted(folder.glob("before-*"))
    assert len(aside) == 2
    for place in aside:
        assert place.name.startswith("before-")
        assert names(place) == {"widedeep_train-1_100.ckpt", "widedeep_train-1_100.json"}
        kept = CheckpointStore(place, "widedeep_train", 5).newest()
        assert kept is not None and kept.step == 100
    assert "1 checkpoints set aside in" in caplog.text


def test_set_aside_without_units_does_nothing(store: CheckpointStore, folder: Path) -> None:
    store.set_aside()
    assert names(folder) == set()


def test_only_one_process_at_a_time_has_the_folder(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "w", 3)
    store.lock()
    code = (
        "import sys; from pathlib import Path\n"
        "from src.checkpoints.store import CheckpointStore\n"
        "from src.checkpoints.unit import CheckpointError\n"
        "try: CheckpointStore(Path(sys.argv[1]), 'w', 3).lock()\n"
        "except CheckpointError as error: print(error)"
    )
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", code, str(tmp_path)]
        second = subprocess.run(command, capture_output=True, text=True, check=True)
        said.append(second.stdout)
        store.unlock()
    assert f"another trainer is using {tmp_path}" in said[0]
    assert "another trainer" not in said[1]
