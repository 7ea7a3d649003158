"""Parts: every cut gives back what was cut, and each part is a file that MindSpore reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from src.checkpoints.ckpt_file import write_ckpt
from src.checkpoints.parts import PIECE, load, load_file, plan_parts, read_vocabulary
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import CheckpointError, Unit, newest_unit, read_unit
from src.process.arrays import Array
from tests.checkpoints.test_store import (
    assert_bitwise_equal,
    damage,
    make_network,
    names,
    save,
    train,
    values,
)

ENTRIES: dict[str, Array] = {
    "scalar": np.array(3.5, np.float32),
    "table": np.arange(36, dtype=np.float32).reshape(12, 3),
    "line": np.arange(10, dtype=np.float32),
    "wide": np.arange(40, dtype=np.float32).reshape(2, 20),
    "block": np.arange(48, dtype=np.float32).reshape(2, 3, 8),
    "one": np.ones(1, np.float32),
    "vocabulary": np.arange(50, dtype=np.uint8),
}
WHOLE = sum(array.nbytes for array in ENTRIES.values())


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "ckpt", "w", 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ckpt"


def cut_at(monkeypatch: pytest.MonkeyPatch, part_bytes: int) -> None:
    monkeypatch.setattr("src.checkpoints.store.PART_BYTES", part_bytes)


def test_at_every_size_no_part_is_too_large_and_together_they_are_the_entries() -> None:
    for part_bytes in range(4, WHOLE + 1):
        assert_planned(part_bytes)


def assert_planned(part_bytes: int) -> None:
    plan = plan_parts(ENTRIES, part_bytes)
    rebuilt = {name: np.full_like(array, 99) for name, array in ENTRIES.items()}
    count = 0
    for part in plan.parts:
        assert part, "no part is empty"
        assert sum(array.nbytes for array in part.values()) <= part_bytes
        for name, array in part.items():
            count += array.nbytes
            piece = PIECE.fullmatch(name)
            if piece is None:
                rebuilt[name] = array
            else:  # the name is NumPy's notation
                exec(f"rebuilt[{piece['entry']!r}]{name[len(piece['entry']) :]} = array")
                assert plan.cut[piece["entry"]] == ENTRIES[piece["entry"]].shape
    assert count == WHOLE
    assert_bitwise_equal(rebuilt, ENTRIES)
    assert set(plan.cut) == {name for name, array in ENTRIES.items() if array.nbytes > part_bytes}


def test_a_unit_that_is_small_enough_is_one_part_in_one_piece() -> None:
    plan = plan_parts(ENTRIES, WHOLE)
    assert len(plan.parts) == 1 and list(plan.parts[0]) == list(ENTRIES) and not plan.cut


def test_pieces_are_views_and_not_copies() -> None:
    plan = plan_parts(ENTRIES, 24)
    whole = ENTRIES["table"]
    pieces = [array for part in plan.parts for name, array in part.items() if name[:6] == "table["]
    assert len(pieces) == 6 and all(np.shares_memory(piece, whole) for piece in pieces)


@pytest.mark.parametrize("part_bytes", [4, 8, 12, 16, 20, 44, 48, 52, 60, 100, 200, 400, 4000])
def test_training_goes_on_from_a_unit_of_parts_bit_by_bit(
    part_bytes: int, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(monkeypatch, part_bytes)
    undisturbed = make_network()
    train(undisturbed, 2)
    grown = bytes(range(100))
    unit = save(store, 2, undisturbed, vocabulary=grown)
    train(undisturbed, 3)
    assert store.newest() == unit == read_unit(unit.path)
    assert read_vocabulary(unit) == grown
    resumed = make_network(seed=99)
    store.restore(unit, resumed)
    train(resumed, 3)
    assert_bitwise_equal(values(resumed), values(undisturbed))


def test_each_part_is_readable_by_mindspore_alone(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(monkeypatch, 40)
    network = make_network()
    unit = save(store, 2, network)
    assert len(unit.files) > 3
    found: dict[str, Any] = {}
    for path in unit.files:
        found.update(ms.load_checkpoint(str(path)))
    whole = values(network)
    for name, array in whole.items():
        if name in found:
            assert found[name].asnumpy().tobytes() == array.tobytes()
        else:
            pieces = [found[piece].asnumpy() for piece in found if piece.startswith(f"{name}[")]
            assert np.concatenate(pieces).tobytes() == array.tobytes()
    # The names differ, so nobody takes a piece for a parameter.
    assert "weight" not in found
    assert found["weight[0:3]"].shape == (3, 3)


def test_a_unit_of_parts_has_a_manifest_of_another_format(
    store: CheckpointStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that knows no parts refuses it by its format and can't load half of it."""
    cut_at(monkeypatch, 40)
    unit = save(store, 2, make_network())
    fields = json.loads(unit.manifest_path.read_bytes())
    assert fields["format"] == 2
    assert [part["checkpoint"] for part in fields["parts"]] == [path.name for path in unit.files]
    assert [path.name for path in unit.files][:2] == ["w-1_2.ckpt", "w-1_2.part2.ckpt"]
    assert names(folder) == {"w-1_2.json", *(path.name for path in unit.files)}


@pytest.fixture
def two_units(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """An older unit in one file and a newer one in parts."""
    older = save(store, 1, make_network())
    cut_at(monkeypatch, 40)
    return [older, save(store, 2, make_network())]


@pytest.mark.parametrize("damage_kind", ["missing", "torn", "flipped"])
def test_damage_to_any_part_is_named_and_the_unit_before_is_used(
    damage_kind: str,
    store: CheckpointStore,
    two_units: list[Unit],
    caplog: pytest.LogCaptureFixture,
) -> None:
    older, newer = two_units
    for path in newer.files:
        content = path.read_bytes()
        path.unlink()
        if damage_kind == "torn":
            path.write_bytes(content[:-1])
        elif damage_kind == "flipped":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        caplog.clear()
        assert store.newest() == older
        assert str(path) in caplog.text
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert store.newest() == newer


def test_a_part_of_another_unit_is_damage(store: CheckpointStore, two_units: list[Unit]) -> None:
    older, newer = two_units
    train(network := make_network())
    other = save(store, 3, network)
    damage(newer.files[1], other.files[1].read_bytes())
    with pytest.raises(CheckpointError, match=r"w-1_2.part2.ckpt has checksum"):
        read_unit(newer.path)


def test_old_units_are_removed_with_all_their_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(monkeypatch, 40)
    store = CheckpointStore(tmp_path, "w", 2)
    kept = [save(store, step, make_network()) for step in (1, 2, 10, 11)][-2:]
    expected = {path.name for unit in kept for path in (unit.manifest_path, *unit.files)}
    assert names(tmp_path) == expected


def test_a_unit_with_fewer_parts_replaces_a_damaged_one_of_its_step(
    store: CheckpointStore, folder: Path, two_units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = two_units
    damage(newer.files[0], b"torn")
    cut_at(monkeypatch, 100)
    again = save(store, 2, make_network())
    assert len(again.files) < len(newer.files)
    assert store.newest() == again
    expected = {path.name for unit in (older, again) for path in (unit.manifest_path, *unit.files)}
    assert names(folder) == expected


def test_parts_that_a_write_has_left_are_removed_once_they_are_overtaken(
    store: CheckpointStore, folder: Path, two_units: list[Unit], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for name in (
        "w-1_0.ckpt",
        "w-1_0.part2.ckpt",
        "w-1_9.part2.ckpt",
        ".w-1_9.part3.ckpt.writing.ckpt",
    ):
        (folder / name).write_bytes(b"torn")
    assert store.newest() == two_units[1]
    left = {name for name in names(folder) if "-1_0" in name or "-1_9" in name}
    assert left == {"w-1_9.part2.ckpt"}
    assert "w-1_9.part2.ckpt: it has no manifest beside it" in caplog.text


def test_a_unit_of_parts_is_set_aside_whole(
    store: CheckpointStore, folder: Path, two_units: list[Unit]
) -> None:
    store.set_aside()
    (aside,) = folder.glob("before-*")
    found = newest_unit(aside, "w")
    assert found is not None and found.step == 2
    store.restore(found, make_network(seed=4))


def test_a_disk_that_is_full_at_any_part_leaves_the_older_units_alone(
    store: CheckpointStore, folder: Path, two_units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for failing in range(1, len(two_units[1].files) + 1):
        calls = 0

        def write(path: Path, entries: Any, failing: int = failing) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(28, "No space left on device")
            return write_ckpt(path, entries)

        monkeypatch.setattr("src.checkpoints.store.write_ckpt", write)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(store, 3, make_network())
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_unit_is_found_by_any_of_its_parts(two_units: list[Unit]) -> None:
    unit = two_units[1]
    assert [read_unit(path) for path in unit.files] == [unit] * len(unit.files)


def test_a_part_without_its_manifest_is_named(two_units: list[Unit]) -> None:
    unit = two_units[1]
    unit.manifest_path.unlink()
    for path in unit.files[:2]:
        with pytest.raises(CheckpointError, match=r"one part of a checkpoint.*w-1_2\.json"):
            load_file(path)


def test_a_piece_that_no_part_holds_is_named(two_units: list[Unit]) -> None:
    unit = two_units[1]
    smaller = Unit(
        unit.step, unit.position, "", 0, {}, unit.path, parts=unit.parts[:1], cut=unit.cut
    )
    with pytest.raises(CheckpointError, match="pieces of weight are missing"):
        load(smaller)


def test_a_name_that_looks_like_a_piece_is_left_as_it_is(store: CheckpointStore) -> None:
    network = nn.Dense(3, 2)
    network.weight.name = "w[0:2]"
    unit = save(store, 1, network)
    other = nn.Dense(3, 2)
    other.weight.name = "w[0:2]"
    store.restore(unit, other)
    assert_bitwise_equal(values(other), values(network))
