"""Copies of arrays: whole, in memory that is used again, or none where there is too little."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from src.checkpoints.ckpt_file import write_ckpt
from src.checkpoints.copies import SPARE_BYTES, KeptCopies, shares
from src.checkpoints.uncached_file import BLOCK_BYTES
from src.process.arrays import Array

SIZES = [(), (0,), (1,), (7, 3), (1000,), (5, 5, 5)]


def arrays(seed: int = 1) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    made: dict[str, Array] = {
        f"float{size}": np.array(random.random(size), dtype=np.float32) for size in SIZES
    }
    return {**made, "whole": random.integers(0, 9, 17), "flag": random.random(3) < 0.5}


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_threads_share_every_element_once_and_about_evenly(number: int) -> None:
    sources = list(arrays().values())
    targets = [np.zeros_like(source) for source in sources]
    shared = shares(zip(targets, sources), number)
    assert len(shared) == number
    total = sum(source.nbytes for source in sources)
    for pairs in shared:
        assert sum(source.nbytes for _, source in pairs) <= total / number + 16
        for target, source in pairs:
            np.add(target, source, out=target)  # an element that is there twice would be doubled
    for target, source in zip(targets, sources):
        np.testing.assert_array_equal(target, source)


def test_a_copy_is_of_its_moment_and_the_next_one_takes_the_same_memory() -> None:
    views, copies = arrays(), KeptCopies()
    expected = {name: view.copy() for name, view in views.items()}
    taken = copies.take(views)
    assert taken is not None
    places = {name: copy.ctypes.data for name, copy in taken.items()}
    for view in views.values():
        view[...] = 0
    for name, copy in taken.items():
        assert (copy.dtype, copy.shape) == (expected[name].dtype, expected[name].shape)
        np.testing.assert_array_equal(copy, expected[name])
    again = copies.take(views)
    assert again is not None
    for name, copy in again.items():
        assert copy.ctypes.data == places[name]
        assert not copy.any()


def test_a_copy_lies_in_its_block_as_in_the_file(tmp_path: Path) -> None:
    copies = KeptCopies().take(arrays())
    assert copies is not None
    write_ckpt(tmp_path / "file", copies)
    content = (tmp_path / "file").read_bytes()
    for name in ("float(1000,)", "whole"):
        place = content.index(copies[name].tobytes())
        assert (copies[name].ctypes.data - place) % BLOCK_BYTES == 0


def test_too_little_memory_is_said_once_and_asked_for_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    views = {"table": np.ones(1 << 20, np.float32)}
    left = [SPARE_BYTES + (4 << 20) - 1]
    copies = KeptCopies(lambda: left[0])
    for _ in range(3):
        assert copies.take(views) is None
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (
            logging.WARNING,
            "too little memory for a copy of the model (4 MB): training stands still while a "
            "checkpoint is written",
        )
    ]
    left[0] += 1
    assert copies.take(views) is not None


def test_memory_that_the_system_refuses_is_too_little() -> None:
    larger_than_any = np.broadcast_to(np.float32(0), (1 << 50,))
    assert not KeptCopies(lambda: 1 << 60).make_room({"table": larger_than_any})
