from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from src.process.arrays import Array
from src.publishing.version_format import (
    BOUNDS,
    IDS,
    MANIFEST,
    VOCABULARY,
    WEIGHTS,
    Contents,
    Manifest,
    PublishingError,
    patch,
    read_contents,
    read_manifest,
    write_version,
)
from tests.features.made import make_dictionaries
from tests.publishing.made import delta_contents, full_contents, make_arrays, make_manifest

ALL_FILES = (MANIFEST, WEIGHTS, VOCABULARY, IDS, BOUNDS)


@pytest.fixture
def full(tmp_path: Path) -> Manifest:
    return write_version(tmp_path, make_manifest(10), full_contents(1))


def test_a_full_version_is_read_as_it_was_written(full: Manifest, tmp_path: Path) -> None:
    assert read_manifest(tmp_path / full.name) == full
    contents = read_contents(tmp_path, full)
    wanted = make_arrays(1)
    assert list(contents.whole) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(contents.whole[name], array)
        assert contents.whole[name].dtype == np.float32
    assert contents.rows == {}
    assert contents.vocabulary is not None
    assert contents.vocabulary.ids.tolist() == [39, 40]
    assert contents.vocabulary.fields.tolist() == [0, 25]
    assert list(contents.vocabulary.values) == [b"red", b"blue"]
    assert contents.dictionaries is not None
    same = make_dictionaries(C1_known=58)
    assert contents.dictionaries.dictionaries().fingerprint == same.fingerprint


def test_a_delta_patches_the_rows_that_moved(full: Manifest, tmp_path: Path) -> None:
    delta = write_version(tmp_path, make_manifest(20, full), delta_contents(2, rows=(1, 39)))
    contents = read_contents(tmp_path, delta)
    assert contents.vocabulary is not None and contents.dictionaries is None
    assert contents.vocabulary.fields.tolist() == [1, -1]
    assert list(contents.vocabulary.values) == [b"green", b""]
    arrays: dict[str, Array] = {}
    patch(arrays, read_contents(tmp_path, full))
    patch(arrays, contents)
    before, after = make_arrays(1), make_arrays(2)
    for name, array in arrays.items():
        wanted = after[name].copy()
        if name in contents.rows:
            wanted = before[name].copy()
            wanted[[1, 39]] = after[name][[1, 39]]
        np.testing.assert_array_equal(array, wanted)


def test_other_programs_read_the_weights(full: Manifest, tmp_path: Path) -> None:
    arrays = load_file(tmp_path / full.name / WEIGHTS)
    for name, array in make_arrays(1).items():
        np.testing.assert_array_equal(arrays[name], array)


def test_an_empty_delta_is_written_and_read(full: Manifest, tmp_path: Path) -> None:
    delta = write_version(tmp_path, make_manifest(20, full), delta_contents(2, rows=()))
    rows, values = read_contents(tmp_path, delta).rows["embedding_table"]
    assert rows.shape == (0,) and values.shape == (0, 3)


@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "longer"])
def test_a_damaged_file_is_named(full: Manifest, tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / full.name / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        half = len(data) // 2
        flipped = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
        path.write_bytes({"cut": data[:half], "bit": flipped, "longer": data + b" 1"}[damage])
    with pytest.raises(PublishingError, match=name) as caught:
        read_contents(tmp_path, read_manifest(tmp_path / full.name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"format": 1}'])
def test_what_is_no_manifest_is_refused(full: Manifest, tmp_path: Path, content: bytes) -> None:
    (tmp_path / full.name / MANIFEST).write_bytes(content)
    with pytest.raises(PublishingError, match=MANIFEST):
        read_manifest(tmp_path / full.name)


def test_a_manifest_of_another_version_is_refused(full: Manifest, tmp_path: Path) -> None:
    (tmp_path / full.name).rename(tmp_path / "11-0123abcd")
    with pytest.raises(PublishingError, match=f"is the manifest of {full.name}"):
        read_manifest(tmp_path / "11-0123abcd")


def test_the_manifest_is_plain_json(full: Manifest, tmp_path: Path) -> None:
    fields = json.loads((tmp_path / full.name / MANIFEST).read_text())
    assert fields["format"] == 1 and fields["version"] == 10 and fields["kind"] == "full"
    assert fields["position"] == {"offsets": {"0": 100, "1": 103}, "last_partition": 1}
    assert fields["files"][WEIGHTS]["bytes"] == (tmp_path / full.name / WEIGHTS).stat().st_size


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "10-0123abcd").mkdir()
    (tmp_path / "10-0123abcd" / "other").touch()
    with pytest.raises(PublishingError, match="can't write version .*10-0123abcd"):
        write_version(tmp_path, make_manifest(10), full_contents())
    assert [path.name for path in tmp_path.iterdir()] == ["10-0123abcd"]


def test_what_was_left_half_written_is_replaced(tmp_path: Path) -> None:
    aside = tmp_path / ".writing-10-0123abcd"
    aside.mkdir()
    (aside / WEIGHTS).write_bytes(b"half")
    full = write_version(tmp_path, make_manifest(10), full_contents())
    assert [path.name for path in tmp_path.iterdir()] == [full.name]


def test_rows_outside_of_a_table_are_refused() -> None:
    arrays = make_arrays()
    for rows, values in (([60], (1, 3)), ([-1], (1, 3)), ([0], (1, 4)), ([0], (2, 3))):
        change = (np.array(rows, np.int32), np.zeros(values, np.float32))
        with pytest.raises(PublishingError, match="embedding_table"):
            patch(arrays, Contents({}, {"embedding_table": change}))
    with pytest.raises(PublishingError, match="cross_weight"):
        patch(arrays, Contents({}, {"cross_weight": change}))


def test_weights_that_are_not_finite_are_seen() -> None:
    assert full_contents().is_finite() and delta_contents(1).is_finite()
    whole = replace(full_contents(), whole={"wide_bias": np.array([np.inf], np.float32)})
    assert not whole.is_finite()
    rows = (np.array([1], np.int32), np.array([[np.nan]], np.float32))
    assert not Contents({}, {"wide_weight": rows}).is_finite()
