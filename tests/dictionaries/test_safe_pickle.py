from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.dictionaries.errors import DictionaryError
from src.dictionaries.safe_pickle import load_pickle
from tests.dictionaries.made import dump, upstream_max


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "number",
    [
        3,
        -2.5,
        2**70,
        np.int8(-7),
        np.int64(2**40),
        np.uint64(2**63),
        np.float32(0.5),
        np.float64(1e300),
        np.array(259, dtype=">i4")[()],
    ],
)
def test_numbers_come_back_as_plain_numbers_of_the_same_value(
    tmp_path: Path, number: Any, protocol: int
) -> None:
    read = load_pickle(dump(tmp_path / "d.pkl", {"a": number}, protocol))
    assert read == {"a": number}
    assert type(read["a"]) in (int, float)


def test_a_pickle_that_would_run_a_command_is_refused_without_running_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = dump(tmp_path / "evil.pkl", {"I1": Evil()})
    with pytest.raises(DictionaryError, match=r"evil\.pkl: .*(posix|os)\.system is not admitted"):
        load_pickle(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"a": np.arange(3)}, "numpy.core.multiarray._reconstruct"),
        ({"a": np.bool_(True)}, "'b1'"),
        ({"a": np.str_("x")}, "'U1'"),
        ({"a": pickle.Unpickler}, "_pickle.Unpickler"),
        ({"a": b"bytes"}, "b'bytes' is no number"),
        ({"a": True}, "True is no number"),
        ({"a": "text"}, "'a': 'text' is no number"),
        ({"a": None}, "None is no number"),
        ({1: 2}, "key 1 is no string"),
        ([1, 2], "a list instead of a dict"),
    ],
)
def test_anything_but_a_dict_of_numbers_is_refused_by_name(
    tmp_path: Path, content: object, named: str
) -> None:
    with pytest.raises(DictionaryError) as error:
        load_pickle(dump(tmp_path / "odd.pkl", content))
    assert named in str(error.value)
    assert "odd.pkl" in str(error.value)


@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_in_one_line_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.pkl"
    path.write_bytes(data)
    try:
        assert isinstance(load_pickle(path), dict)
    except DictionaryError as error:
        assert "\n" not in str(error)


@given(cut=st.integers(0, 200))
def test_a_cut_off_pickle_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.pkl"
    path.write_bytes(pickle.dumps(upstream_max())[:cut])
    with pytest.raises(DictionaryError, match=r"cut\.pkl: no dictionary"):
        load_pickle(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match=r"nowhere\.pkl: cannot be read: No such file"):
        load_pickle(tmp_path / "nowhere.pkl")
