"""Values looked up without learning have the ids that the growing vocabulary gives them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from src.dictionaries.growing.vocabulary import GrowthSettings, Vocabulary
from src.dictionaries.known_values import KnownValues
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_SIZE, FIELD_SIZE

FIRST = 100
NOTHING = np.empty(0, np.int64)
UNKNOWN_IDS = np.arange(13, 39, dtype=np.int32)


def cells_of(generator: np.random.Generator, rows: int = 20) -> tuple[Array, Array, Array]:
    """(ids, oov, values) of rows whose values come and go, long ones among them."""
    numbers = generator.integers(0, 60, (rows, CATEGORICAL_SIZE))
    texts = np.char.add("v" * 3, numbers.astype(str))
    texts[numbers % 7 == 0] = np.char.add("a value of many bytes ", texts[numbers % 7 == 0])
    texts[numbers % 11 == 0] = ""
    ids = np.full((rows, FIELD_SIZE), 5, np.int32)
    ids[:, DENSE_SIZE:] = UNKNOWN_IDS
    return ids, np.full(rows, (1 << CATEGORICAL_SIZE) - 1, np.uint32), texts.astype(np.bytes_)


def looked_up(known: KnownValues, values: Array) -> Array:
    """The ids of S[rows, 26] values; an empty one is missing."""
    columns, codes = [], []
    for column in values.T:
        texts = pa.array(column.tolist(), pa.binary()).cast(pa.string())
        encoded = pc.if_else(pc.equal(texts, ""), None, texts).dictionary_encode()
        codes.append(encoded.indices.fill_null(-1).to_numpy())
        columns.append(encoded.dictionary)
    ids = [np.full(len(column) + 1, id_) for column, id_ in zip(columns, UNKNOWN_IDS)]
    filled = known.fill_in(ids, columns, UNKNOWN_IDS)
    return np.stack([ids[code] for ids, code in zip(filled, codes)], axis=1)


def test_every_look_up_is_that_of_the_vocabulary_while_ids_are_freed_and_given_again() -> None:
    generator = np.random.default_rng(1)
    grown = Vocabulary((FIRST, FIRST + 700), GrowthSettings(admit_count=2, expire_rows=60))
    known = KnownValues.of(NOTHING, np.empty(0, "S1"), NOTHING)
    freed = again = 0
    for _ in range(40):
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
        wanted = grown.look_up(*seen)[0][:, DENSE_SIZE:]
        np.testing.assert_array_equal(looked_up(known, seen[2]), wanted)
        assert len(known) == len(grown)
    assert freed > 50, "ids were freed"
    assert again > 700, "and given to other values"


def test_a_change_leaves_the_table_before_it_as_it_was() -> None:
    values = np.array([[b"a", *[b""] * 25]])
    column = np.array([0])
    before = KnownValues.of(column, values[0, :1], np.array([200]))
    after = before.changed(np.array([200]), column, np.array([b"other"]), np.array([201]))
    assert looked_up(before, values)[0].tolist() == [200, *UNKNOWN_IDS[1:]]
    assert looked_up(after, values)[0].tolist() == UNKNOWN_IDS.tolist()


def test_a_value_that_the_dictionaries_know_keeps_their_id() -> None:
    known = KnownValues.of(np.array([0, 0]), np.array([b"a", b""]), np.array([200, 201]))
    values = [pa.array(["a"]), *[pa.array([], pa.string())] * 25]
    ids = [np.array([7, 8]), *(np.array([id_]) for id_ in UNKNOWN_IDS[1:])]
    assert known.fill_in(ids, values, UNKNOWN_IDS)[0].tolist() == [7, 8]


@pytest.mark.parametrize("value", ["x" * 65, "ends with NUL\0", "\0", "ä" * 33])
def test_what_no_trainer_learns_is_never_known(value: str) -> None:
    cut = value.encode()[:64].rstrip(b"\0")
    known = KnownValues.of(np.array([0, 0]), np.array([cut, b"\xff"]), np.array([200, 201]))
    values = [pa.array([value, "short"]), *[pa.array([], pa.string())] * 25]
    ids = [np.full(3, 13), *(np.array([id_]) for id_ in UNKNOWN_IDS[1:])]
    assert known.fill_in(ids, values, UNKNOWN_IDS)[0][:2].tolist() == [13, 13]


def test_an_id_that_goes_to_another_value_need_not_be_freed_by_name() -> None:
    column, id_ = np.array([0]), np.array([200])
    before = KnownValues.of(column, np.array([b"a"]), id_)
    assert len(before.changed(NOTHING, column, np.array([b"b"]), id_)) == 1


@pytest.mark.parametrize("rows", [0, 3])
def test_an_empty_table_and_no_rows_are_looked_up_too(rows: int) -> None:
    values = cells_of(np.random.default_rng(3), rows)[2]
    for known in (
        KnownValues.of(NOTHING, np.empty(0, "S1"), NOTHING),
        KnownValues.of(np.array([0]), np.array([b"absent"]), np.array([200])),
    ):
        assert looked_up(known, values).tolist() == [UNKNOWN_IDS.tolist()] * rows
