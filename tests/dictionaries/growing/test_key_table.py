"""A key table holds what a dict would hold."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from src.dictionaries.growing.key_table import KeyTable
from src.dictionaries.value_keys import mixed
from src.process.arrays import Array

# Few of them begin at different places: 1,024 and 2,048 are multiples of the least table's size.
CROWDED = st.sampled_from([*range(0, 4096 * 40, 1024), 1, 2, 3, 1023, 2047])
MIXED = st.integers(0, 200).map(lambda number: int(mixed(np.array([number], np.uint64))[0]))
STEPS = st.lists(st.tuples(st.booleans(), st.sets(CROWDED | MIXED, max_size=60)), max_size=12)


def numbers(keys: list[int]) -> Array:
    return np.array(keys, dtype=np.uint64)


@given(STEPS)
@settings(max_examples=150)
def test_a_key_table_holds_what_a_dict_holds(steps: list[tuple[bool, set[int]]]) -> None:
    table, expected, next_slot = KeyTable(), dict[int, int](), 0
    for is_added, some in steps:
        if is_added:
            keys = sorted(some - set(expected))
            slots = list(range(next_slot, next_slot + len(keys)))
            table.add(numbers(keys), np.array(slots, dtype=np.int64))
            expected.update(zip(keys, slots))
            next_slot += len(keys)
        else:
            keys = sorted(some & set(expected))
            table.remove(numbers(keys))
            for key in keys:
                del expected[key]
        asked = [*some, *expected, 5, 2**64 - 1]
        found = table.look_up(numbers(asked)).tolist()
        assert found == [expected.get(key, -1) for key in asked]
        assert len(table) == len(expected)


def test_a_table_grows_with_its_keys() -> None:
    keys = mixed(np.arange(100_000, dtype=np.uint64))
    slots = np.arange(100_000)
    table = KeyTable()
    for begin in range(0, 100_000, 7_000):
        part = slice(begin, begin + 7_000)
        table.add(keys[part], slots[part])
    np.testing.assert_array_equal(table.look_up(keys), slots)
    assert (table.look_up(keys + np.uint64(1)) == -1).all()


def test_keys_that_come_and_go_take_no_more_memory() -> None:
    table, kept = KeyTable(), mixed(np.arange(1_000, dtype=np.uint64))
    table.add(kept, np.arange(1_000))
    places = len(table._slots)
    for number in range(1_000, 101_000, 1_000):
        keys = mixed(np.arange(number, number + 1_000, dtype=np.uint64))
        table.add(keys, np.arange(1_000, 2_000))
        table.remove(keys)
    assert len(table._slots) <= 2 * places
    np.testing.assert_array_equal(table.look_up(kept), np.arange(1_000))
