from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.dictionaries.value_keys import value_keys
from src.rows.criteo import CATEGORICAL_SIZE


@given(st.lists(st.binary(max_size=64).filter(lambda value: not value.endswith(b"\0")), min_size=1))
def test_a_key_does_not_depend_on_the_width_it_is_sent_in(values: list[bytes]) -> None:
    columns = np.zeros(len(values), dtype=np.int64)
    narrow, wide = np.array(values, dtype=np.bytes_), np.array(values, dtype="S64")
    keys = value_keys(columns, narrow)
    np.testing.assert_array_equal(keys, value_keys(columns, wide))
    assert len(set(keys.tolist())) == len(set(values))


def test_a_value_has_another_key_in_each_column() -> None:
    columns = np.arange(CATEGORICAL_SIZE)
    keys = value_keys(columns, np.array([b"68fd1e64"] * CATEGORICAL_SIZE))
    assert len(set(keys.tolist())) == CATEGORICAL_SIZE
