from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from src.publishing.tensor_file import PIECE_BYTES, TensorFileError, parse_tensors, pieces_of

ARRAYS = {
    "table": np.arange(6, dtype=np.float32).reshape(2, 3),
    "rows": np.array([3, 4], dtype=np.int32),
    "none": np.zeros((0, 3), dtype=np.float32),
    "one": np.float32(7.5).reshape(()),
    "large": np.arange(PIECE_BYTES // 4 + 3, dtype=np.int32),
    "every other": np.arange(10, dtype=np.float32)[::2],
}


def test_the_library_reads_what_is_written_and_the_other_way_round() -> None:
    data = b"".join(pieces_of(ARRAYS))
    for arrays in (load(data), parse_tensors(data), parse_tensors(save(ARRAYS))):
        assert arrays.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="wide is float64"):
        list(pieces_of({"wide": np.zeros(2)}))


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_or_hold_no_array(data: bytes) -> None:
    try:
        assert parse_tensors(data) == {}  # an empty header is a file without arrays
    except TensorFileError as error:
        assert "\n" not in str(error)


@given(st.integers(0, 200))
def test_a_cut_file_is_refused(end: int) -> None:
    data = b"".join(pieces_of({"a": np.ones(40, np.float32)}))
    with pytest.raises(TensorFileError):
        parse_tensors(data[: min(end, len(data) - 1)])
