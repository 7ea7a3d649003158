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
    """Replaces ``numpy.dtype`` while a pickle is read; admits numbers and texts only."""

    def __init__(self, code: str | bytes, *_flags: object) -> None:
        code = code.decode() if isinstance(code, bytes) else code
        if not isinstance(code, str) or not re.fullmatch(r"[iu][1248]|f[248]|[US]\d+", code):
            raise pickle.UnpicklingError(f"a NumPy scalar of type {short_repr(code)} is no number")
        self.code = code
        self.order = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        orders = {"<": "<", ">": ">", b"<": "<", b">": ">"}
        self.order = orders.get(state[1], "=")


def _read_scalar(scalar_type: _ScalarType, data: bytes) -> Any:
    """Replaces NumPy's own scalar constructor; a text becomes a plain str or bytes."""
    if scalar_type.code[0] in "US" and not data:
        return ""
    number = np.frombuffer(data, dtype=scalar_type.order + scalar_type.code)
    if number.size != 1:
        raise pickle.UnpicklingError(f"{len(data)} bytes are no NumPy {scalar_type.code}")
    return number[0].item() if scalar_type.code[0] in "US" else number[0]


def _plain_dict(*arguments: Any) -> dict[Any, Any]:
    """Replaces OrderedDict, Counter and defaultdict, whose first argument may be a factory."""
    content = arguments[0] if arguments else ()
    return dict(content) if isinstance(content, (dict, list)) else {}


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Replaces ``_codecs.encode``, by which pickle protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {short_repr(encoding)} is not admitted")
    return text.encode("latin1")


_FACTORIES = ("bool", "dict", "float", "int", "list", "long", "str")
_ADMITTED: Mapping[tuple[str, str], Any] = {
    ("numpy", "dtype"): _ScalarType,
    ("numpy.core.multiarray", "scalar"): _read_scalar,
    ("numpy._core.multiarray", "scalar"): _read_scalar,
    ("_codecs", "encode"): _encode_latin1,
    ("collections", "OrderedDict"): _plain_dict,
    ("collections", "Counter"): _plain_dict,
    ("collections", "defaultdict"): _plain_dict,
    # What a defaultdict makes of a missing key; None can't be called.
    **{("builtins", name): None for name in _FACTORIES},
    **{("__builtin__", name): None for name in _FACTORIES},  # as Python 2 calls it
    **{("numpy", name): None for name in ("float32", "float64", "int32", "int64")},
}
_OTHER_FILES = (
    (b"", "is empty"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it first"),
    (b"BZh", "is compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz: unpack it first"),
    (b"PK\x03\x04", "is a zip archive, or an .npz file"),
    (b"\x93NUMPY", "is an .npy file"),
    (b"PAR1", "is a Parquet file"),
    (b"version https://git-lfs", "is only the pointer that Git LFS left: git lfs pull"),
)
_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*\{\s*[\"}]")


class _NumbersUnpickler(pickle.Unpickler):
    """Admits a few harmless functions, as a pickle may name any function to call."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            message = f"the global {module_name}.{global_name} is not admitted"
            if module_name.split(".")[0] == "pandas":
                message += ": save the result of its to_dict()"
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
        data = Path(path).read_bytes()
    except OSError as error:
        raise DictionaryError(f"{path}: cannot be read: {error.strerror}") from error
    _refuse_other_files(path, data)
    file = io.BytesIO(data)
    try:
        # Python 2 wrote texts as bytes: as such they come, and not as ASCII.
        content = _NumbersUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a broken pickle can raise nearly any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DictionaryError(f"{path}: no dictionary: {reason}") from error
    if type(content) is not dict:
        raise DictionaryError(f"{path}: holds a {type(content).__name__} instead of a dict")
    if file.tell() < len(data):
        more = len(data) - file.tell()
        raise DictionaryError(f"{path}: no dictionary: {more} bytes follow the end of the pickle")
    if set(map(type, content)) <= {str} and set(map(type, content.values())) <= {int, float}:
        return content
    plain = {_plain_key(path, key): _plain_number(path, key, content[key]) for key in content}
    if len(plain) < len(content):
        raise DictionaryError(f"{path}: a key stands there as text and as bytes")
    return plain


def _refuse_other_files(path: PathLike, data: bytes) -> None:
    """Names what a file is that often stands in a pickle's place.

    Raises:
        DictionaryError: It is such a file.
    """
    for beginning, what in _OTHER_FILES:
        if data.startswith(beginning) if beginning else not data:
            raise DictionaryError(f"{path}: no dictionary: it {what}")
    if _JSON.match(data):
        raise DictionaryError(f"{path}: no dictionary: it is JSON text, not a pickle")


def _plain_key(path: PathLike, key: object) -> str:
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError:
            raise DictionaryError(f"{path}: key {short_repr(key)} is not UTF-8") from None
    if type(key) is not str:
        raise DictionaryError(f"{path}: key {short_repr(key)} is no string")
    return key


def _plain_number(path: PathLike, key: object, value: object) -> int | float:
    if type(value) in (int, float):
        return value  # type: ignore[return-value]
    if isinstance(value, (np.integer, np.floating)):
        number: int | float = value.item()
        return number
    raise DictionaryError(f"{path}: {short_repr(key)}: {short_repr(value)} is no number")
