"""Files of .ckpt against MindSpore's own writer and reader."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from crc32c import crc32c

from src.checkpoints.ckpt_file import CkptFileError, read_ckpt, write_ckpt
from src.process.arrays import Array

TYPES = (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bool",
)


def sample() -> dict[str, Array]:
    """Every type, as a scalar, as one element, as a row, as a block; and a long name."""
    generator = np.random.default_rng(3)
    shapes: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (3, 4, 2), (1, 1), (130, 1))
    found = {
        f"{kind}.{len(shape)}.{shape}": (generator.random(shape) * 100).astype(kind)
        for kind in TYPES
        for shape in shapes
    }
    return {**found, "ä" * 150: np.arange(40_000, dtype=np.float32).reshape(200, 200)}


def read(path: Path) -> dict[str, Array]:
    found: dict[str, Array] = {}

    def place(name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        found[name] = np.full(shape, 1, dtype)
        return found[name]

    read_ckpt(path, place)
    return found


def assert_same(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
        assert array.tobytes() == other[name].tobytes(), name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.ckpt"


def save_with_mindspore(path: Path, entries: dict[str, Array]) -> None:
    ms.save_checkpoint(
        [{"name": name, "data": ms.Tensor(array)} for name, array in entries.items()], str(path)
    )


def test_what_is_written_is_what_mindspore_writes_byte_for_byte(path: Path, tmp_path: Path) -> None:
    save_with_mindspore(tmp_path / "theirs.ckpt", sample())
    written = write_ckpt(path, sample())
    content = path.read_bytes()
    assert content == (tmp_path / "theirs.ckpt").read_bytes()
    assert (written.bytes, written.checksum) == (len(content), crc32c(content))
    assert path.stat().st_mode == (tmp_path / "theirs.ckpt").stat().st_mode


def test_what_mindspore_wrote_is_read_as_it_was(path: Path) -> None:
    save_with_mindspore(path, sample())
    assert_same(read(path), sample())


def test_a_view_is_written_like_a_copy(path: Path) -> None:
    table = np.arange(60.0).reshape(6, 10)
    write_ckpt(path, {"rows": table[2:5], "columns": table[:, 3:]})
    assert_same(read(path), {"rows": table[2:5].copy(), "columns": table[:, 3:].copy()})


def test_an_entry_that_mindspore_cut_into_messages_is_read_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 1 / 64)  # of a KB
    entries = {"a": np.arange(50, dtype=np.float32).reshape(25, 2), "b": np.arange(3)}
    save_with_mindspore(path, entries)
    assert path.stat().st_size > 500  # many messages
    assert_same(read(path), entries)


def test_a_text_among_the_entries_is_read(path: Path) -> None:
    ms.save_checkpoint(
        [{"name": "w", "data": ms.Tensor([1.0])}], str(path), append_dict={"by": "someone"}
    )
    assert str(read(path)["by"]) == "someone"


def test_entries_can_be_passed_over(path: Path) -> None:
    write_ckpt(path, sample())
    wanted = "float16.3.(3, 4, 2)"
    found = np.zeros((3, 4, 2), np.float16)
    read_ckpt(path, lambda name, shape, dtype: found if name == wanted else None)
    assert found.tobytes() == sample()[wanted].tobytes()


def test_a_file_that_ends_anywhere_is_named_or_has_fewer_entries(path: Path) -> None:
    entries = {"first": np.arange(3), "second": np.ones((2, 2), np.float32)}
    write_ckpt(path, entries)
    content = path.read_bytes()
    whole = 0
    for end in range(len(content)):
        path.unlink()
        path.write_bytes(content[:end])
        try:
            whole += len(read(path))
        except CkptFileError as error:
            assert "\n" not in str(error)
    assert whole == 1  # cut between both


def test_a_flipped_bit_never_raises_anything_else(path: Path) -> None:
    write_ckpt(path, {"first": np.arange(3), "second": np.ones((2, 2), np.float32)})
    content = path.read_bytes()
    for place in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.unlink()
        path.write_bytes(bytes(flipped))
        try:
            read(path)
        except CkptFileError as error:
            assert str(error)


@pytest.mark.parametrize("content", [b"not a checkpoint\n", b"\x80\x03cposix", b"PK\x03\x04" * 9])
def test_another_file_is_named(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CkptFileError):
        read(path)
