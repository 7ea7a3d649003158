"""The three dictionaries that turn a Criteo row into ids and weights: load, check, save.

Three pickle files hold plain dicts: the largest value of each dense column, the smallest value, and
the id of every *token*:

===================  ==============================  =============================================
token                id                              stands for
===================  ==============================  =============================================
``I1`` … ``I13``     0 … 12                          a dense column
``OOVC1`` … ``OOVC26``  13 … 38                      any other value of a categorical column
``C1_68fd1e64`` …    39 …                            one value of a categorical column
===================  ==============================  =============================================

The original example disagrees with itself here. Its dictionary builder numbers the categorical
columns ``C1 … C26`` and writes the tokens above. Its consumer looks up ``I14 … I39`` without the
value, so it never finds one, and uses 1 … 13 as the dense ids. We follow the builder, as it defines
the ids. Its files load here unchanged.
"""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from src.dictionaries.errors import DictionaryError
from src.dictionaries.safe_pickle import load_pickle
from src.dictionaries.value_table import ValueTable
from src.process.files import PathLike, atomic_write_bytes
from src.rows.criteo import CATEGORICAL_COLUMNS, CATEGORICAL_SIZE, DENSE_COLUMNS, FIELD_SIZE
from src.rows.short_repr import short_repr

MAX_DICT_NAME = "all_val_max_dict.pkl"
MIN_DICT_NAME = "all_val_min_dict.pkl"
MAP_DICT_NAME = "cat2id_dict.pkl"
OOV_TOKENS = tuple(f"OOV{column}" for column in CATEGORICAL_COLUMNS)

_RESERVED_TOKENS = (*DENSE_COLUMNS, *OOV_TOKENS)
_VALUE_PATTERN = "^C([1-9]|1[0-9]|2[0-6])_"
_MAX_ID = int(np.iinfo(np.int32).max)
_FINGERPRINT_VERSION = b"criteo-dictionaries-1"


@dataclass(frozen=True, eq=False)
class Dictionaries:
    """The checked dictionaries and what is derived from them.

    Attributes:
        max_by_column: Largest value of each dense column ``I1 … I13``.
        min_by_column: Smallest value of each dense column.
        id_by_token: Id of every token (see the module's table).
        dense_ids: int32[13], the ids of ``I1 … I13``.
        oov_ids: int32[26], the ids of ``OOVC1 … OOVC26``.
        table: Ids of the known values of ``C1 … C26``.
        missing_ids: int32[26], the ids of a missing value. A dictionary from elsewhere may have an
            id for the empty string. Otherwise a missing value is out of vocabulary.
        vocab_size_needed: The largest id plus one, which is the least size of an embedding table.
        fingerprint: Unsigned 64-bit hash of all entries. It depends neither on their order nor on
            the process.
    """

    max_by_column: dict[str, float]
    min_by_column: dict[str, float]
    id_by_token: dict[str, int]
    dense_ids: npt.NDArray[np.int32] = field(init=False)
    oov_ids: npt.NDArray[np.int32] = field(init=False)
    table: ValueTable = field(init=False)
    missing_ids: npt.NDArray[np.int32] = field(init=False)
    vocab_size_needed: int = field(init=False)
    fingerprint: int = field(init=False)

    def __post_init__(self) -> None:
        tokens, ids = _in_order(self.id_by_token)
        table = _table(tokens, ids)
        oov_ids = np.array([self.id_by_token[t] for t in OOV_TOKENS], dtype=np.int32)
        missing = table.look_up([pa.array([""])] * CATEGORICAL_SIZE, oov_ids)
        derived = {
            "dense_ids": np.array([self.id_by_token[t] for t in DENSE_COLUMNS], dtype=np.int32),
            "oov_ids": oov_ids,
            "table": table,
            "missing_ids": np.concatenate(missing),
            "vocab_size_needed": int(ids[-1]) + 1,
            "fingerprint": _fingerprint(self.max_by_column, self.min_by_column, tokens, ids),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)  # the class is frozen for everyone else


def load_dictionaries(
    max_dict: PathLike,
    min_dict: PathLike,
    map_dict: PathLike,
    vocab_size: int | None = None,
) -> Dictionaries:
    """Loads and checks the three dictionary files.

    Args:
        max_dict: File with the largest value of each dense column.
        min_dict: File with the smallest value of each dense column.
        map_dict: File with the id of every token.
        vocab_size: Rows of the embedding table, if the ids are to fit one.

    Raises:
        DictionaryError: A file cannot be read; a key is missing or unknown; a bound is not finite
            or a minimum is above its maximum; an id is no integer, occurs twice or is not in
            [0, vocab_size).
    """
    max_by_column = _checked_bounds(max_dict, load_pickle(max_dict))
    min_by_column = _checked_bounds(min_dict, load_pickle(min_dict))
    for column in DENSE_COLUMNS:
        low, high = min_by_column[column], max_by_column[column]
        if low > high:
            raise DictionaryError(
                f"{min_dict}: {column}: the minimum {low:g} is above the maximum {high:g} "
                f"in {max_dict}"
            )
    return Dictionaries(max_by_column, min_by_column, load_ids(map_dict, vocab_size))


def load_ids(map_dict: PathLike, vocab_size: int | None = None) -> dict[str, int]:
    """Loads and checks the file of ids alone.

    Args:
        map_dict: File with the id of every token.
        vocab_size: Rows of the embedding table, if the ids are to fit one.

    Raises:
        DictionaryError: As for ``load_dictionaries``.
    """
    limit = _MAX_ID + 1 if vocab_size is None else vocab_size
    try:
        return _checked_ids(map_dict, load_pickle(map_dict), limit)
    except UnicodeEncodeError as error:
        token = short_repr(error.object)
        raise DictionaryError(f"{map_dict}: key {token} cannot be written as UTF-8") from error


def save_dictionaries(
    dictionaries: Dictionaries, max_dict: PathLike, min_dict: PathLike, map_dict: PathLike
) -> None:
    """Writes the three files as pickles of plain dicts, each durably and atomically.

    Raises:
        OSError: A file cannot be written.
    """
    for path, content in (
        (max_dict, dictionaries.max_by_column),
        (min_dict, dictionaries.min_by_column),
        (map_dict, dictionaries.id_by_token),
    ):
        atomic_write_bytes(path, pickle.dumps(content, protocol=4))


def _checked_bounds(path: PathLike, bounds: Mapping[str, float]) -> dict[str, float]:
    for column in DENSE_COLUMNS:
        if column not in bounds:
            raise DictionaryError(f"{path}: {column} is missing")
    for column, bound in bounds.items():
        if column not in DENSE_COLUMNS:
            raise DictionaryError(f"{path}: key {short_repr(column)} is none of I1 … I13")
        if not _is_finite(bound):
            raise DictionaryError(f"{path}: {column}: {short_repr(bound)} is not finite")
    return {column: float(bounds[column]) for column in DENSE_COLUMNS}


def _is_finite(bound: float) -> bool:
    try:
        return math.isfinite(bound)
    except OverflowError:  # a whole number beyond every float
        return False


def _checked_ids(path: PathLike, ids: dict[str, Any], limit: int) -> dict[str, int]:
    for token in _RESERVED_TOKENS:
        if token not in ids:
            raise DictionaryError(f"{path}: {token} is missing")
    if not _all_ids_fit(ids, limit):
        for token, number in ids.items():
            _check_id(path, token, number, limit)
        raise DictionaryError(f"{path}: {_first_double(ids)}")
    return ids


def _all_ids_fit(ids: Mapping[str, Any], limit: int) -> bool:
    """Whether ``_check_id`` finds no fault and no id occurs twice; works on whole columns.

    Raises:
        UnicodeEncodeError: A token can't be written as UTF-8.
    """
    if set(map(type, ids.values())) != {int}:
        return False
    try:
        tokens = pa.array(ids.keys(), type=pa.large_string())
        numbers = np.sort(np.fromiter(ids.values(), dtype=np.int64, count=len(ids)))
    except OverflowError:
        return False
    values = pc.sum(pc.match_substring_regex(tokens, _VALUE_PATTERN)).as_py()
    return (
        values + FIELD_SIZE == len(ids)  # the reserved tokens are there, and FIELD_SIZE in number
        and numbers[0] >= 0
        and numbers[-1] < limit
        and bool((numbers[1:] > numbers[:-1]).all())
    )


def _check_id(path: PathLike, token: str, number: object, limit: int) -> None:
    column, mark, _ = token.partition("_")
    if token not in _RESERVED_TOKENS and not (mark and column in CATEGORICAL_COLUMNS):
        raise DictionaryError(
            f"{path}: key {short_repr(token)} is none of I1 … I13, OOVC1 … OOVC26, C1_… … C26_…"
        )
    if type(number) is not int:
        raise DictionaryError(
            f"{path}: {short_repr(token)}: the id {short_repr(number)} is no integer"
        )
    if not 0 <= number < limit:
        raise DictionaryError(
            f"{path}: {short_repr(token)}: the id {short_repr(number)} is not in [0, {limit})"
        )


def _first_double(ids: Mapping[str, int]) -> str:
    token_by_id: dict[int, str] = {}
    for token, number in ids.items():
        other = token_by_id.setdefault(number, token)
        if other != token:
            return f"{short_repr(token)}: the id {number} is also that of {short_repr(other)}"
    raise AssertionError("every id is unique")


def _in_order(id_by_token: Mapping[str, int]) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """(large_string[tokens], int64[tokens]) in the order of the (unique) ids."""
    ids = np.fromiter(id_by_token.values(), dtype=np.int64, count=len(id_by_token))
    order = np.argsort(ids, kind="stable")
    tokens = pa.array(id_by_token.keys(), type=pa.large_string()).take(pa.array(order))
    return tokens, ids[order]


def _table(tokens: pa.Array, ids: npt.NDArray[np.int64]) -> ValueTable:
    """The values among the tokens, and their ids."""
    values, ids_by_column = [], []
    for column in CATEGORICAL_COLUMNS:
        prefix = f"{column}_"
        is_of_column = pc.starts_with(tokens, prefix)
        values.append(pc.utf8_slice_codeunits(tokens.filter(is_of_column), len(prefix)))
        ids_by_column.append(ids[is_of_column.to_numpy(zero_copy_only=False)])
    return ValueTable(values, ids_by_column)


def _fingerprint(
    max_by_column: Mapping[str, float],
    min_by_column: Mapping[str, float],
    tokens: pa.Array,
    ids: npt.NDArray[np.int64],
) -> int:
    """Hashes the entries, in the order of their ids; a million take under half a second."""
    # The lengths distinguish "ab" + "c" from "a" + "bc".
    lengths = pc.binary_length(tokens).to_numpy().astype("<i8")
    bounds = [
        bounds[column] for bounds in (max_by_column, min_by_column) for column in DENSE_COLUMNS
    ]
    digest = hashlib.blake2b(_FINGERPRINT_VERSION, digest_size=8)
    # Adding 0.0 turns -0.0 into 0.0: the same number, the same bytes.
    for part in (np.array(bounds, dtype="<f8") + 0.0, ids.astype("<i8"), lengths):
        digest.update(part.tobytes())
    digest.update(memoryview(tokens.buffers()[2])[: int(lengths.sum())])
    return int.from_bytes(digest.digest(), "little")
