"""When a value gets an id, when it loses it, and that a vocabulary grows the same way twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from src.dictionaries.errors import VocabularyError
from src.dictionaries.growing.vocabulary import Change, GrowthSettings, Vocabulary
from src.dictionaries.oov import UNLEARNABLE
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_SIZE, FIELD_SIZE

OOV_ID = 13
FIRST = 100
Batch = tuple[Array, Array, Array]


def batch(*rows: dict[int, bytes]) -> Batch:
    """(ids, oov, values) of rows of which only the columns named are out of vocabulary."""
    ids = np.full((len(rows), FIELD_SIZE), 5, dtype=np.int32)
    oov = np.zeros(len(rows), dtype=np.uint32)
    values = np.zeros((len(rows), CATEGORICAL_SIZE), dtype="S8")
    for number, row in enumerate(rows):
        for column, value in row.items():
            ids[number, DENSE_SIZE + column] = OOV_ID + column
            oov[number] |= np.uint32(1 << column)
            values[number, column] = value
    return ids, oov, values


def grow(vocabulary: Vocabulary, made: Batch) -> tuple[Array, Array, Change]:
    found = vocabulary.plan(*made)
    vocabulary.apply(found[2])
    return found


def ids_of(vocabulary: Vocabulary, made: Batch) -> list[int]:
    """The ids of C1 in a batch that the vocabulary learns from."""
    return list(grow(vocabulary, made)[0][:, DENSE_SIZE].tolist())


def vocabulary(size: int = 50, admit_count: int = 2, expire_rows: int = 10) -> Vocabulary:
    return Vocabulary((FIRST, FIRST + size), GrowthSettings(admit_count, expire_rows))


def test_a_value_gets_an_id_of_its_own_at_its_admit_counts_sighting() -> None:
    made = vocabulary(admit_count=3)
    sightings = [ids_of(made, batch({0: b"a"})) for _ in range(4)]
    assert sightings == [[OOV_ID], [OOV_ID], [FIRST], [FIRST]]
    assert made.items() == [("C1_a", FIRST)]


def test_all_sightings_of_a_batch_count_for_all_of_its_rows() -> None:
    assert ids_of(vocabulary(), batch({0: b"a"}, {0: b"b"}, {0: b"a"})) == [FIRST, OOV_ID, FIRST]


def test_ids_are_assigned_in_the_order_of_the_stream() -> None:
    rows = [{0: b"z", 1: b"y"}, {0: b"x"}]
    ids = grow(vocabulary(admit_count=1), batch(*rows))[0]
    assert ids[:, DENSE_SIZE].tolist() == [FIRST, FIRST + 2]
    assert ids[0, DENSE_SIZE + 1] == FIRST + 1


def test_equal_values_of_two_columns_are_two_values() -> None:
    made = vocabulary(admit_count=1)
    ids = grow(made, batch({0: b"a", 25: b"a"}))[0]
    assert ids[0, [DENSE_SIZE, DENSE_SIZE + 25]].tolist() == [FIRST, FIRST + 1]
    assert made.items() == [("C1_a", FIRST), ("C26_a", FIRST + 1)]


def test_a_missing_value_is_learnt_like_any_other() -> None:
    made = vocabulary(admit_count=1)
    assert ids_of(made, batch({0: b""})) == [FIRST]
    assert made.items() == [("C1_", FIRST)]


def test_a_value_that_was_not_sent_is_never_learnt() -> None:
    made = vocabulary(admit_count=1)
    assert ids_of(made, batch({0: UNLEARNABLE}, {0: UNLEARNABLE})) == [OOV_ID, OOV_ID]
    assert len(made) == 0


def test_known_cells_and_the_batch_itself_stay_as_they_are() -> None:
    made = batch({0: b"a"}, {})
    before = [array.copy() for array in made]
    ids, oov, _ = grow(vocabulary(admit_count=1), made)
    assert (ids[:, DENSE_SIZE + 1 :] == 5).all() and (ids[:, :DENSE_SIZE] == 5).all()
    assert oov.tolist() == [0, 0]
    for array, copy in zip(made, before):
        np.testing.assert_array_equal(array, copy)


def test_looking_up_learns_nothing() -> None:
    made = vocabulary(admit_count=1)
    grow(made, batch({0: b"a"}))
    before = made.dump()
    ids, oov = made.look_up(*batch({0: b"a"}, {0: b"b"}))
    assert ids[:, DENSE_SIZE].tolist() == [FIRST, OOV_ID]
    assert oov.tolist() == [0, 1]
    assert made.dump() == before


def test_a_full_vocabulary_gives_no_id_while_all_of_its_own_are_in_use() -> None:
    made = vocabulary(size=1, admit_count=1)
    assert ids_of(made, batch({0: b"a"}, {0: b"b"})) == [FIRST, OOV_ID]
    assert ids_of(made, batch({0: b"b"})) == [OOV_ID]


def test_an_id_unused_for_expire_rows_is_freed_and_assigned_again_from_the_next_batch_on() -> None:
    made = vocabulary(size=1, admit_count=1, expire_rows=3)
    assert ids_of(made, batch({0: b"a"})) == [FIRST]
    for _ in range(3):
        grow(made, batch({}))
    ids, _, change = grow(made, batch({0: b"b"}))
    assert (ids[0, DENSE_SIZE], change.freed.tolist()) == (OOV_ID, [0])
    assert len(made) == 0
    assert ids_of(made, batch({0: b"b"})) == [FIRST]
    assert made.items() == [("C1_b", FIRST)]
    assert ids_of(made, batch({0: b"a"})) == [OOV_ID]


def test_an_id_that_is_used_in_the_very_batch_is_not_freed() -> None:
    made = vocabulary(size=1, admit_count=1, expire_rows=3)
    grow(made, batch({0: b"a"}))
    for _ in range(5):
        grow(made, batch({}))
    ids, _, change = grow(made, batch({0: b"a"}, {0: b"b"}))
    assert ids[:, DENSE_SIZE].tolist() == [FIRST, OOV_ID]
    assert change.freed.tolist() == []


def test_nothing_is_freed_while_there_is_room() -> None:
    made = vocabulary(size=2, admit_count=1, expire_rows=1)
    grow(made, batch({0: b"a"}))
    for _ in range(5):
        grow(made, batch({}))
    assert grow(made, batch({0: b"b"}))[2].freed.tolist() == []


def test_without_free_ids_nothing_is_learnt() -> None:
    assert ids_of(vocabulary(size=-3, admit_count=1), batch({0: b"a"})) == [OOV_ID]


def random_batches(seed: int, number: int) -> Iterator[Batch]:
    """Batches of 20 rows with a few common and many rare values."""
    draw = np.random.default_rng(seed)
    for _ in range(number):
        values = draw.zipf(1.3, (20, CATEGORICAL_SIZE)) % 500
        oov = draw.integers(0, 1 << CATEGORICAL_SIZE, 20, dtype=np.uint32)
        yield np.full((20, FIELD_SIZE), 5, dtype=np.int32), oov, values.astype("S8")


def test_a_vocabulary_that_follows_the_changes_is_the_same_as_the_one_that_planned_them() -> None:
    leader, follower = vocabulary(size=300), vocabulary(size=300)
    for made in random_batches(1, 40):
        follower.apply(grow(leader, made)[2])
    assert follower.dump() == leader.dump()


@pytest.mark.parametrize("size", [40, 5000])
def test_a_restored_vocabulary_grows_on_as_the_one_that_was_saved(size: int) -> None:
    batches = list(random_batches(2, 60))
    whole = vocabulary(size, expire_rows=200)
    first = [grow(whole, made)[0] for made in batches]
    part = vocabulary(size, expire_rows=200)
    for made in batches[:25]:
        grow(part, made)
    again = Vocabulary.load(part.dump(), part.settings)
    rest = [grow(again, made)[0] for made in batches[25:]]
    np.testing.assert_array_equal(np.concatenate(first[25:]), np.concatenate(rest))
    assert again.dump() == whole.dump()
    assert sorted(again.items()) == sorted(whole.items())


def test_every_id_belongs_to_one_value_at_a_time() -> None:
    made = vocabulary(size=40, admit_count=1, expire_rows=50)
    for each in random_batches(3, 50):
        grow(made, each)
        ids = [number for _, number in made.items()]
        assert len(ids) == len(set(ids)) == len(made) <= 40
        assert all(FIRST <= number < FIRST + 40 for number in ids)
        assert made.room == 40 - len(made)


@pytest.mark.parametrize("damaged", [b"", b"no zip", vocabulary().dump()[:-50]])
def test_bytes_that_are_no_vocabulary_are_refused(damaged: bytes) -> None:
    with pytest.raises(VocabularyError, match="not a saved vocabulary"):
        Vocabulary.load(damaged, GrowthSettings(1, 1))
