"""The vocabulary of a trainer: batches read run ahead, a checkpoint holds what was trained."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from src.dictionaries.errors import VocabularyError
from src.dictionaries.growing.growth import Growth
from src.dictionaries.growing.vocabulary import Change, GrowthSettings
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_SIZE, FIELD_SIZE

SETTINGS = GrowthSettings(admit_count=1, expire_rows=3)
FREE_IDS = (50, 60)


def no_reset(ids: Array) -> None:
    raise AssertionError(f"nothing was taken back, but {ids}")


def grow(
    growth: Growth, *values: bytes, free_ids: tuple[int, int] = FREE_IDS
) -> tuple[list[int], Change]:
    """Lets rows with these values of C1 be seen; gives their ids."""
    ids = np.zeros((len(values), FIELD_SIZE), dtype=np.int32)
    oov = np.ones(len(values), dtype=np.uint32)
    cells: Array = np.zeros((len(values), CATEGORICAL_SIZE), dtype="S8")
    cells[:, 0] = values
    found, _, change = growth.grow(ids, oov, cells, free_ids)
    return found[:, DENSE_SIZE].tolist(), change


def test_what_is_saved_is_the_vocabulary_of_the_steps_trained() -> None:
    growth = Growth(SETTINGS, 60)
    assert growth.dump() == b""
    changes = [grow(growth, value)[1] for value in (b"a", b"b", b"c")]
    growth.follow(changes[0], no_reset)
    assert len(growth) == 1
    again = Growth(SETTINGS, 60, growth.dump())
    assert grow(again, b"b", b"a")[0] == [51, 50]
    assert grow(growth, b"b", b"a")[0] == [51, 50]


def test_the_rows_of_ids_taken_back_are_reset_with_the_step_that_took_them() -> None:
    growth = Growth(SETTINGS, 51)
    changes = [grow(growth, value, free_ids=(50, 51))[1] for value in (b"a", *[b"b"] * 4)]
    reset: list[list[int]] = []
    for change in changes:
        growth.follow(change, lambda ids: reset.append(ids.tolist()))
        assert reset == ([[50]] if change is changes[4] else [])


def test_ids_beyond_the_trainers_table_are_refused() -> None:
    with pytest.raises(VocabularyError, match="vocab_size of 60 or more, the trainer's is 59"):
        grow(Growth(SETTINGS, 59), b"a")


def test_other_free_ids_than_those_of_the_checkpoint_are_refused_with_both() -> None:
    growth = Growth(SETTINGS, 60)
    growth.follow(grow(growth, b"a")[1], no_reset)
    again = Growth(SETTINGS, 60, growth.dump())
    with pytest.raises(VocabularyError, match="ids 40 to 60 .* the checkpoint ids 50 to 60"):
        grow(again, b"a", free_ids=(40, 60))


def test_a_full_vocabulary_is_logged_once_and_every_freeing_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    growth = Growth(SETTINGS, 51)
    for value in (b"a", b"b", b"b", b"b", b"b"):
        grow(growth, value, free_ids=(50, 51))
    assert grow(growth, b"b", free_ids=(50, 51))[0] == [50]
    logged = [record.getMessage() for record in caplog.records]
    assert sum("vocabulary is full: 1 values" in line for line in logged) == 1
    assert sum(line == "1 ids freed, in no row for 3 rows" for line in logged) == 1
