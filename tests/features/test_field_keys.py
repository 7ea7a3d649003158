"""Keys of fields: they follow from a field's value and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.features.field_keys import KEY_BITS, field_keys
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, COLUMNS, DENSE_SIZE, FIELD_SIZE
from src.rows.parsing import parse_messages
from tests.rows.messages import ALL_MISSING, PLAIN, with_field

VALUES = st.text(st.characters(blacklist_characters="\t\r\n", blacklist_categories=["Cs"]))


def keys_of_lines(*lines: bytes) -> Array:
    parsed = parse_messages(list(lines))
    assert not parsed.bad
    return field_keys(parsed)


def test_keys_have_the_shape_and_range_that_crosses_need() -> None:
    keys = keys_of_lines(PLAIN, ALL_MISSING)
    assert keys.shape == (2, FIELD_SIZE)
    assert keys.dtype == np.int32
    assert keys.min() >= 0 and keys.max() < 2**KEY_BITS
    assert keys_of_lines().shape == (0, FIELD_SIZE)


def test_keys_are_those_of_every_earlier_run() -> None:
    """A checkpoint's weights are found under them."""
    keys = keys_of_lines(with_field("C1", b"68fd1e64"), ALL_MISSING)
    assert keys[:, [0, DENSE_SIZE, FIELD_SIZE - 1]].tolist() == [
        [276588361, 417281611, 80915968],
        [559544020, 611047145, 1050630330],
    ]


@given(st.lists(VALUES, min_size=1, max_size=8), st.randoms())
def test_a_key_does_not_depend_on_the_rows_beside_it(values: list[str], random: object) -> None:
    lines = [with_field("C3", value.encode()) for value in values]
    together = keys_of_lines(*lines)
    for place, line in enumerate(lines):
        np.testing.assert_array_equal(together[place], keys_of_lines(line)[0])


@given(st.sets(VALUES, min_size=2, max_size=20))
def test_different_values_of_a_column_have_different_keys(values: set[str]) -> None:
    keys = keys_of_lines(*(with_field("C3", value.encode()) for value in values))
    assert len(set(keys[:, DENSE_SIZE + 2].tolist())) == len(values)


def test_the_same_value_has_another_key_in_another_column() -> None:
    keys = keys_of_lines(PLAIN)[0]
    assert len(set(keys.tolist())) == FIELD_SIZE


def test_a_missing_value_has_a_key_of_its_own_in_each_column() -> None:
    missing, plain = keys_of_lines(ALL_MISSING, PLAIN)
    assert len(set(missing.tolist())) == FIELD_SIZE
    assert (missing != plain).all()


def test_a_value_of_more_than_eight_bytes_counts_as_a_whole() -> None:
    long_values = [b"longer than eight bytes", b"longer than nine bytes", b"longer "]
    keys = keys_of_lines(*(with_field("C26", value) for value in long_values))
    assert len(set(keys[:, FIELD_SIZE - 1].tolist())) == 3


@pytest.mark.parametrize(("one", "other", "equal"), [(b"1000", b"1001", True), (b"1", b"2", False)])
def test_dense_values_of_one_bucket_share_a_key(one: bytes, other: bytes, equal: bool) -> None:
    keys = keys_of_lines(with_field("I5", one), with_field("I5", other))
    place = COLUMNS.index("I5") - 1
    assert (keys[0, place] == keys[1, place]) is np.bool_(equal)
    assert (np.delete(keys[0], place) == np.delete(keys[1], place)).all()


def test_keys_are_spread_evenly() -> None:
    lines = [with_field("C1", b"%x" % number) for number in range(4096)]
    places = keys_of_lines(*lines)[:, FIELD_SIZE - CATEGORICAL_SIZE] % 64
    counts = np.bincount(places, minlength=64)
    assert counts.min() >= 30 and counts.max() <= 110  # 64 on average
