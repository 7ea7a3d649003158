from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
from collections import Counter, OrderedDict, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
        ({"a": np.str_("x")}, "'a': 'x' is no number"),
        ({"a": Decimal("1.5")}, "decimal.Decimal is not admitted"),
        (pd.DataFrame({"a": [1]}), "pandas.core.frame.DataFrame is not admitted: save the result"),
        (pd.Series({"a": 1}), "pandas.core.series.Series is not admitted: save the result"),
        (np.arange(3), "numpy.core.multiarray._reconstruct is not admitted"),
        ([("a", 1)], "a list instead of a dict"),
        ({b"\xff": 1}, "key b'\\xff' is not UTF-8"),
        ({b"a": 1, "a": 2}, "a key stands there as text and as bytes"),
        ({"a": complex(1, 2)}, "builtins.complex is not admitted"),
        ({"a": {"b": 1}}, "{'b': 1} is no number"),
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
    with pytest.raises(DictionaryError, match=r"cut\.pkl: no dictionary: "):
        load_pickle(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match=r"nowhere\.pkl: cannot be read: No such file"):
        load_pickle(tmp_path / "nowhere.pkl")


def defaults(factory: Any) -> dict[str, int]:
    found: dict[str, int] = defaultdict(factory)
    found.update(a=1, b=2)
    return found


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "content",
    [
        OrderedDict(a=1, b=2),
        Counter(a=1, b=2),
        defaults(int),
        defaults(float),
        defaults(None),
        defaults(np.float64),
        {np.str_("a"): 1, np.str_("b"): np.int64(2)},
        {np.bytes_(b"a"): 1, b"b": 2},
    ],
    ids=lambda content: type(content).__name__,
)
def test_dicts_of_other_kinds_come_back_as_plain_ones(
    tmp_path: Path, content: Any, protocol: int
) -> None:
    read = load_pickle(dump(tmp_path / "d.pkl", content, protocol))
    assert (type(read), read) == (dict, {"a": 1, "b": 2})
    assert set(map(type, read)) == {str} and set(map(type, read.values())) == {int}


def test_names_that_are_only_known_must_not_be_called(tmp_path: Path) -> None:
    path = tmp_path / "called.pkl"
    path.write_bytes(b"cbuiltins\nint\n(I7\ntR.")  # int(7)
    with pytest.raises(DictionaryError, match="no dictionary: 'NoneType' object is not callable"):
        load_pickle(path)


@pytest.mark.parametrize(
    "data",
    [
        # {'C1_\xc3\xa9': 41L, u'I1': numpy.float64(0.5)} as Python 2.7 with NumPy 1.16 writes it
        b"\x80\x02}q\x00(U\x05C1_\xc3\xa9q\x01\x8a\x01)X\x02\x00\x00\x00I1q\x02"
        b"cnumpy.core.multiarray\nscalar\nq\x03cnumpy\ndtype\nq\x04U\x02f8q\x05K\x00K\x01\x87q\x06R"
        b"q\x07(K\x03U\x01<q\x08NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\tbU\x08"
        b"\x00\x00\x00\x00\x00\x00\xe0?q\n\x86q\x0bRq\x0cu.",
        # the same by protocol 0
        b"(dp0\nS'C1_\\xc3\\xa9'\np1\nL41L\nsVI1\np2\nF0.5\ns.",
    ],
)
def test_a_pickle_of_python_2_is_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(data)
    assert load_pickle(path) == {"C1_\u00e9": 41, "I1": 0.5}


def test_numpy_2_names_its_modules_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "new.pkl"
    data = pickle.dumps({"a": np.int64(7), np.str_("b"): np.float32(0.5)}, protocol=2)
    path.write_bytes(data.replace(b"numpy.core.multiarray", b"numpy._core.multiarray"))
    assert load_pickle(path) == {"a": 7, "b": 0.5}


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.arange(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "it is empty"),
        (gzip.compress(pickle.dumps({"a": 1}), mtime=0), "compressed with gzip"),
        (bz2.compress(b"x"), "compressed with bzip2"),
        (lzma.compress(b"x"), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd....", "compressed with zstd"),
        (npz(), "a zip archive, or an .npz file"),
        (b'{"I1": 3}', "it is JSON text"),
        (b'\xef\xbb\xbf {\n "I1": 3}', "it is JSON text"),
        (b"I1,3\nI2,4\n", "no dictionary: "),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (pickle.dumps({"a": 1}) + pickle.dumps({"b": 2}), "bytes follow the end"),
        (b"\x80\x7f.", "unsupported pickle protocol: 127"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, named: str) -> None:
    path = tmp_path / "other.pkl"
    path.write_bytes(data)
    with pytest.raises(DictionaryError, match=r"other\.pkl: no dictionary: ") as error:
        load_pickle(path)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match="cannot be read: Is a directory"):
        load_pickle(tmp_path)
