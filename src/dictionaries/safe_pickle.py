"""Reads pickle files that may come from anyone: a dict of numbers, and nothing else is run."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.dictionaries.errors import DictionaryError
from src.process.files import PathLike
from src.rows.short_repr import short_repr


class _ScalarType:
    """Replaces ``numpy.dtype`` while a pickle is read; admits numbers and runs no NumPy code."""

    def __init__(self, code: str, *_flags: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[iu][1248]|f[248]", code):
            raise pickle.UnpicklingError(f"a NumPy scalar of type {short_repr(code)} is no number")
        self.code = code
        self.order = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")


def _read_scalar(scalar_type: _ScalarType, data: bytes) -> Any:
    """Replaces NumPy's own scalar constructor."""
    number = np.frombuffer(data, dtype=scalar_type.order + scalar_type.code)
    if number.size != 1:
        raise pickle.UnpicklingError(f"{len(data)} bytes are no NumPy {scalar_type.code}")
    return number[0]


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Replaces ``_codecs.encode``, by which pickle protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {short_repr(encoding)} is not admitted")
    return text.encode("latin1")


_ADMITTED: Mapping[tuple[str, str], Any] = {
    ("numpy", "dtype"): _ScalarType,
    ("numpy.core.multiarray", "scalar"): _read_scalar,
    ("numpy._core.multiarray", "scalar"): _read_scalar,
    ("_codecs", "encode"): _encode_latin1,
}


class _NumbersUnpickler(pickle.Unpickler):
    """Admits four harmless functions, as a pickle may name any function to call."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            message = f"the global {module_name}.{global_name} is not admitted"
            raise pickle.UnpicklingError(message) from None


def load_pickle(path: PathLike) -> dict[str, int | float]:
    """Reads a pickled dict of numbers and runs no function that the file names.

    Args:
        path: A file with one dict from str to int, float or a NumPy number (pickle protocols 0-5).

    Returns:
        The dict; NumPy numbers become the int or float of the same value.

    Raises:
        DictionaryError: The file cannot be read or holds anything else; the message names a
            forbidden global.
    """
    try:
        content = _NumbersUnpickler(io.BytesIO(Path(path).read_bytes())).load()
    except OSError as error:
        raise DictionaryError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # a broken pickle can raise nearly any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DictionaryError(f"{path}: no dictionary: {reason}") from error
    if type(content) is not dict:
        raise DictionaryError(f"{path}: holds a {type(content).__name__} instead of a dict")
    if set(map(type, content)) <= {str} and set(map(type, content.values())) <= {int, float}:
        return content
    return {_checked_key(path, key): _plain_number(path, key, content[key]) for key in content}


def _checked_key(path: PathLike, key: object) -> str:
    if type(key) is not str:
        raise DictionaryError(f"{path}: key {short_repr(key)} is no string")
    return key


def _plain_number(path: PathLike, key: str, value: object) -> int | float:
    if type(value) in (int, float):
        return value  # type: ignore[return-value]
    if isinstance(value, (np.integer, np.floating)):
        number: int | float = value.item()
        return number
    raise DictionaryError(f"{path}: {short_repr(key)}: {short_repr(value)} is no number")
