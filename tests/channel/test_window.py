"""The window's layout and the order of its rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.channel.window import Provenance, make_window, window_dtype
from src.process.arrays import Array
from src.rows.criteo import FIELD_SIZE


def numbered_window(rows: int, num_shards: int) -> Array:
    """A window in which every field of row j of the stream is made of j."""
    number = np.arange(rows)
    return make_window(
        np.repeat(number[:, None], FIELD_SIZE, axis=1).astype(np.int32),
        np.repeat(number[:, None], FIELD_SIZE, axis=1).astype(np.float32) / 2,
        (number % 2).astype(np.float32),
        Provenance((number % 3).astype(np.int32), number * 10, number * 10 + 5, number + 10**12),
        num_shards,
        session=2**40,
        dictionaries=2**64 - 1,
        oov=number.astype(np.uint32) * 3,
    )


def test_two_shards_take_the_even_and_the_odd_rows() -> None:
    window = numbered_window(6, num_shards=2)
    assert window.dtype == window_dtype(2)
    assert window["id"][:, 0].tolist() == [0, 2, 4, 1, 3, 5]
    assert window["offset"].tolist() == [[5, 15], [25, 35], [45, 55]] * 2
    assert window["start"].tolist() == [[0, 10], [20, 30], [40, 50]] * 2
    assert window["partition"].tolist() == [[0, 1], [2, 0], [1, 2]] * 2


@given(st.integers(1, 5), st.integers(0, 7))
def test_every_shards_slice_is_its_stripe_with_the_provenance_of_all_shards(
    num_shards: int, stripes: int
) -> None:
    window = numbered_window(stripes * num_shards, num_shards)
    for shard, rows in enumerate(np.split(window, num_shards)):
        stream = np.arange(stripes) * num_shards + shard
        assert rows["id"].tolist() == [[j] * FIELD_SIZE for j in stream]
        assert rows["weight"].tolist() == [[j / 2] * FIELD_SIZE for j in stream]
        assert rows["label"].tolist() == [j % 2 for j in stream]
        assert rows["timestamp"].tolist() == [j + 10**12 for j in stream]
        assert rows["oov"].tolist() == [j * 3 for j in stream]
        # Any one rank's provenance, read row by row, is the stream.
        everything = np.arange(stripes * num_shards)
        assert rows["partition"].ravel().tolist() == (everything % 3).tolist()
        assert rows["start"].ravel().tolist() == (everything * 10).tolist()
        assert rows["offset"].ravel().tolist() == (everything * 10 + 5).tolist()
    assert set(window["session"].tolist()) <= {2**40}
    assert set(window["dictionaries"].tolist()) <= {2**64 - 1}


def test_rows_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rows can't be shared evenly by 2 shards"):
        numbered_window(5, num_shards=2)
