"""Values looked up without learning have the ids that the growing vocabulary gives them."""

from __future__ import annotations

import numpy as np
import pytest

from src.dictionaries.known_values import KnownValues
from src.dictionaries.vocabulary import GrowthSettings, Vocabulary
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_SIZE, FIELD_SIZE

FIRST = 100
NOTHING = np.empty(0, np.int64)


def cells_of(generator: np.random.Generator, rows: int = 20) -> tuple[Array, Array, Array]:
    """(ids, oov, values) of rows whose values come and go, long ones among them."""
    numbers = generator.integers(0, 60, (rows, CATEGORICAL_SIZE))
    texts = np.char.add("v" * 3, numbers.astype(str))
    texts[numbers % 7 == 0] = np.char.add("a value of many bytes ", texts[numbers % 7 == 0])
    texts[numbers % 11 == 0] = ""
    ids = np.full((rows, FIELD_SIZE), 5, np.int32)
    ids[:, DENSE_SIZE:] = 13 + np.arange(CATEGORICAL_SIZE)
    return ids, np.full(rows, (1 << CATEGORICAL_SIZE) - 1, np.uint32), texts.astype(np.bytes_)


def test_every_look_up_is_that_of_the_vocabulary_while_ids_are_freed_and_given_again() -> None:
    generator = np.random.default_rng(1)
    grown = Vocabulary((FIRST, FIRST + 700), GrowthSettings(admit_count=2, expire_rows=60))
    known = KnownValues.of(NOTHING, np.empty(0, "S1"), NOTHING)
    freed = again = 0
    for _ in range(80):
        cells = cells_of(generator)
        _, _, change = grown.plan(*cells)
        grown.apply(change)
        freed, again = freed + len(change.freed), again + len(change.slots)
        known = known.changed(
            FIRST + change.freed,
            change.columns,
            np.array(change.values or [b""], np.bytes_)[: len(change.slots)],
            FIRST + change.slots,
        )
        seen = cells_of(generator)
        np.testing.assert_array_equal(known.look_up(*seen), grown.look_up(*seen)[0])
        assert len(known) == len(grown)
    assert freed > 100, "ids were freed"
    assert again > 800, "and given to other values"


def test_a_change_leaves_the_table_before_it_as_it_was() -> None:
    ids, oov, values = cells_of(np.random.default_rng(2), rows=1)
    column = np.array([0])
    before = KnownValues.of(column, values[0, :1], np.array([200]))
    after = before.changed(np.array([200]), column, np.array([b"other"]), np.array([201]))
    assert before.look_up(ids, oov, values)[0, DENSE_SIZE] == 200
    assert after.look_up(ids, oov, values)[0, DENSE_SIZE] == 13


def test_an_id_that_goes_to_another_value_need_not_be_freed_by_name() -> None:
    column, id_ = np.array([0]), np.array([200])
    before = KnownValues.of(column, np.array([b"a"]), id_)
    assert len(before.changed(NOTHING, column, np.array([b"b"]), id_)) == 1


@pytest.mark.parametrize("rows", [0, 3])
def test_an_empty_table_and_no_rows_are_looked_up_too(rows: int) -> None:
    ids, oov, values = cells_of(np.random.default_rng(3), rows)
    known = KnownValues.of(NOTHING, np.empty(0, "S1"), NOTHING)
    np.testing.assert_array_equal(known.look_up(ids, oov, values), ids)
    one = KnownValues.of(np.array([0]), np.array([b"absent"]), np.array([200]))
    np.testing.assert_array_equal(one.look_up(ids, oov, values), ids)
