"""The three dictionaries that turn a Criteo row into ids and weights: build, save, load, check.

Three pickle files hold plain dicts: the largest value of each dense column, the smallest one, and
the id of every *token*:

===================  ==============================  =============================================
token                id                              stands for
===================  ==============================  =============================================
``I1`` … ``I13``     0 … 12                          a dense column
``OOVC1`` … ``OOVC26``  13 … 38                      any other value of a categorical column
``C1_68fd1e64`` …    39 …                            one value of a categorical column
===================  ==============================  =============================================

The original example disagrees with itself here. Its dictionary builder numbers the categorical
columns ``C1 … C26`` and makes the tokens above; its consumer asks for ``I14 … I39`` without the
value, so it never finds one, and it takes 1 … 13 for the dense ids. The builder is right: it says
what the ids mean, and the table above is what it writes. Its files load here as they are.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from src.dictionaries.value_counts import MOST_HELD, FrequentValues, RunFile, ValueCounter
from src.dictionaries.value_table import ValueTable
from src.process.files import PathLike, atomic_write_bytes
from src.rows.criteo import CATEGORICAL_COLUMNS, CATEGORICAL_SIZE, DENSE_COLUMNS, FIELD_SIZE, LABEL

OOV_PREFIX = "OOV"
MAX_DICT_NAME = "all_val_max_dict.pkl"
MIN_DICT_NAME = "all_val_min_dict.pkl"
MAP_DICT_NAME = "cat2id_dict.pkl"
DEFAULT_MIN_COUNT = 6
DEFAULT_VOCAB_SIZE = 200_000

_OOV_TOKENS = tuple(OOV_PREFIX + column for column in CATEGORICAL_COLUMNS)
_RESERVED_TOKENS = (*DENSE_COLUMNS, *_OOV_TOKENS)
_VALUE_PATTERN = "^C([1-9]|1[0-9]|2[0-6])_"
_MAX_ID = int(np.iinfo(np.int32).max)
_FINGERPRINT_VERSION = b"criteo-dictionaries-1"


class DictionaryError(ValueError):
    """A dictionary file that cannot be used; the message names file, key and value on one line."""


# --- reading pickles ------------------------------------------------------------------------------


class _ScalarType:
    """Stands in for ``numpy.dtype`` while a pickle is read: numbers only, none of NumPy's code."""

    def __init__(self, code: str, *_flags: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[iu][1248]|f[248]", code):
            raise pickle.UnpicklingError(f"a NumPy scalar of type {_shown(code)} is no number")
        self.code = code
        self.order = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")


def _read_scalar(scalar_type: _ScalarType, data: bytes) -> Any:
    """Stands in for NumPy's own scalar constructor."""
    number = np.frombuffer(data, dtype=scalar_type.order + scalar_type.code)
    if number.size != 1:
        raise pickle.UnpicklingError(f"{len(data)} bytes are no NumPy {scalar_type.code}")
    return number[0]


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stands in for ``_codecs.encode``, which is how pickle protocol 2 spells bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {_shown(encoding)} is not admitted")
    return text.encode("latin1")


_ADMITTED: Mapping[tuple[str, str], Any] = {
    ("numpy", "dtype"): _ScalarType,
    ("numpy.core.multiarray", "scalar"): _read_scalar,
    ("numpy._core.multiarray", "scalar"): _read_scalar,
    ("_codecs", "encode"): _encode_latin1,
}


class _NumbersUnpickler(pickle.Unpickler):
    """A pickle can name any function to call; this one knows four harmless ones."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            message = f"the global {module_name}.{global_name} is not admitted"
            raise pickle.UnpicklingError(message) from None


def load_pickle(path: PathLike) -> dict[str, int | float]:
    """Reads a pickled dict of numbers without running anything that the file asks for.

    Args:
        path: A file with one dict from str to int, float or a NumPy number (pickle protocols 0-5).

    Returns:
        The dict; NumPy numbers come back as the int or float of the same value.

    Raises:
        DictionaryError: The file cannot be read or holds anything else; a forbidden global is
            named.
    """
    try:
        content = _NumbersUnpickler(io.BytesIO(Path(path).read_bytes())).load()
    except OSError as error:
        raise DictionaryError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # a broken pickle raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DictionaryError(f"{path}: no dictionary: {reason}") from error
    if type(content) is not dict:
        raise DictionaryError(f"{path}: holds a {type(content).__name__} instead of a dict")
    if set(map(type, content)) <= {str} and set(map(type, content.values())) <= {int, float}:
        return content
    return {_checked_key(path, key): _plain_number(path, key, content[key]) for key in content}


def _checked_key(path: PathLike, key: object) -> str:
    if type(key) is not str:
        raise DictionaryError(f"{path}: key {_shown(key)} is no string")
    return key


def _plain_number(path: PathLike, key: str, value: object) -> int | float:
    if type(value) in (int, float):
        return value  # type: ignore[return-value]
    if isinstance(value, (np.integer, np.floating)):
        number: int | float = value.item()
        return number
    raise DictionaryError(f"{path}: {_shown(key)}: {_shown(value)} is no number")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- the dictionaries -----------------------------------------------------------------------------


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
        missing_ids: int32[26], the ids of a missing value. A dictionary from elsewhere may give it
            one, under the empty string; without that it is out of vocabulary.
        vocab_size_needed: The largest id plus one: the fewest rows an embedding table may have.
        fingerprint: Unsigned 64-bit number that is the same wherever and in whatever order the
            same entries were loaded, and differs when any entry differs.
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
        oov_ids = np.array([self.id_by_token[t] for t in _OOV_TOKENS], dtype=np.int32)
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
        DictionaryError: A file cannot be read; a key is missing or not one of ours; a bound is
            not finite or a minimum is above its maximum; an id is no integer, is given twice or
            is not in [0, vocab_size).
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
        token = _shown(error.object)
        raise DictionaryError(f"{map_dict}: key {token} cannot be written as UTF-8") from error


def save_dictionaries(
    dictionaries: Dictionaries, max_dict: PathLike, min_dict: PathLike, map_dict: PathLike
) -> None:
    """Writes the three files as pickles of plain dicts, each durably and in one piece.

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
            raise DictionaryError(f"{path}: key {_shown(column)} is none of I1 … I13")
        if not math.isfinite(bound):
            raise DictionaryError(f"{path}: {column}: {bound} is not finite")
    return {column: float(bounds[column]) for column in DENSE_COLUMNS}


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
    """Whether ``_check_id`` finds no fault and no id is given twice, looked at as columns.

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
        values + FIELD_SIZE == len(ids)  # the others, which are there, count FIELD_SIZE
        and numbers[0] >= 0
        and numbers[-1] < limit
        and bool((numbers[1:] > numbers[:-1]).all())
    )


def _check_id(path: PathLike, token: str, number: object, limit: int) -> None:
    column, mark, _ = token.partition("_")
    if token not in _RESERVED_TOKENS and not (mark and column in CATEGORICAL_COLUMNS):
        raise DictionaryError(
            f"{path}: key {_shown(token)} is none of I1 … I13, OOVC1 … OOVC26, C1_… … C26_…"
        )
    if type(number) is not int:
        raise DictionaryError(f"{path}: {_shown(token)}: the id {number} is no integer")
    if not 0 <= number < limit:
        raise DictionaryError(f"{path}: {_shown(token)}: the id {number} is not in [0, {limit})")


def _first_double(ids: Mapping[str, int]) -> str:
    token_by_id: dict[int, str] = {}
    for token, number in ids.items():
        other = token_by_id.setdefault(number, token)
        if other != token:
            return f"{_shown(token)}: the id {number} is also that of {_shown(other)}"
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
    """Hashes the entries, given in the order of their ids; a million in under half a second."""
    # The lengths keep "ab" + "c" apart from "a" + "bc".
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


# --- building -------------------------------------------------------------------------------------


class DictionaryBuilder:
    """Makes dictionaries from blocks of rows.

    The result depends on the rows alone: not on their order, nor on how they were cut into
    blocks. What it holds of the rows in memory does not grow with their number: see
    ``value_counts``. ``close`` it when done.

    Args:
        folder: Where counts go that are too many for memory, for as long as they are needed.
        most_held: See ``ValueCounter``.

    Attributes:
        rows: Rows counted.
        clicks: Those of them with label 1.
        known_cells: Rows by ``C1 … C26`` whose value got an id; 0 before ``finish``.
    """

    def __init__(self, folder: PathLike, most_held: int = MOST_HELD) -> None:
        self.rows = 0
        self.clicks = 0
        self.known_cells = [0] * CATEGORICAL_SIZE
        # Both start at 0, as in the original example: a column that never went below 0 has
        # minimum 0, so that its smallest value keeps a weight above 0.
        self._max_by_column = dict.fromkeys(DENSE_COLUMNS, 0.0)
        self._min_by_column = dict.fromkeys(DENSE_COLUMNS, 0.0)
        self._run_file = RunFile(folder)
        self._counters = {
            column: ValueCounter(self._run_file, most_held) for column in CATEGORICAL_COLUMNS
        }

    def add(self, block: pa.Table | pa.RecordBatch) -> None:
        """Counts a block of rows.

        Args:
            block: Has the columns ``label`` (0 or 1), ``I1 … I13`` (numbers) and ``C1 … C26``
                (strings, plain or dictionary-encoded); null is missing and not counted.

        Raises:
            OSError: There is no room on the disk.
        """
        self.rows += block.num_rows
        self.clicks += pc.sum(block.column(LABEL)).as_py() or 0
        for column in DENSE_COLUMNS:
            bounds = pc.min_max(block.column(column)).as_py()
            if bounds["max"] is not None:
                self._max_by_column[column] = max(self._max_by_column[column], bounds["max"])
                self._min_by_column[column] = min(self._min_by_column[column], bounds["min"])
        for column, counter in self._counters.items():
            counter.add(block.column(column))

    def close(self) -> None:
        """Gives the disk space back."""
        self._run_file.close()

    def finish(
        self,
        min_count: int = DEFAULT_MIN_COUNT,
        vocab_size: int = DEFAULT_VOCAB_SIZE,
        keep_most_frequent: bool = False,
    ) -> Dictionaries:
        """Gives ids to the tokens.

        After the 13 dense and the 26 out-of-vocabulary tokens the values follow: by column, in a
        column the most frequent first, equally frequent ones by their UTF-8 bytes.

        Args:
            min_count: A value needs to be seen more often than this to get an id.
            vocab_size: The most ids there may be.
            keep_most_frequent: Keep the most frequent values of all columns together if there are
                too many (of equally frequent ones the first in the order above).

        Raises:
            DictionaryError: The ids do not fit and ``keep_most_frequent`` is not set.
            OSError: There is no room on the disk.
        """
        most = max(0, vocab_size - FIELD_SIZE)
        frequent = [counter.most_frequent(min_count, most) for counter in self._counters.values()]
        kept = _kept_sizes(frequent, min_count, vocab_size, keep_most_frequent)
        self.known_cells = [int(column.counts[:size].sum()) for column, size in zip(frequent, kept)]
        tokens = [*DENSE_COLUMNS, *_OOV_TOKENS]
        for name, column, size in zip(CATEGORICAL_COLUMNS, frequent, kept):
            tokens.extend(f"{name}_{value}" for value in column.values[:size].to_pylist())
        id_by_token = {token: number for number, token in enumerate(tokens)}
        bounds = [
            {column: float(bound) for column, bound in by_column.items()}
            for by_column in (self._max_by_column, self._min_by_column)
        ]
        return Dictionaries(bounds[0], bounds[1], id_by_token)


def _kept_sizes(
    frequent: Sequence[FrequentValues], min_count: int, vocab_size: int, keep_most_frequent: bool
) -> list[int]:
    """How many of each column's values (most frequent first) get an id."""
    total = sum(column.total for column in frequent)
    sizes = [len(column.counts) for column in frequent]
    if FIELD_SIZE + total <= vocab_size:
        return sizes
    if vocab_size < FIELD_SIZE or not keep_most_frequent:
        raise DictionaryError(
            f"{FIELD_SIZE + total} ids are needed ({FIELD_SIZE} fixed ones and {total} values seen "
            f"more than {min_count} times) and vocab_size is {vocab_size}: raise vocab_size or "
            "min_count, or keep only the most frequent values"
        )
    counts = np.concatenate([column.counts for column in frequent])
    column_of_value = np.repeat(np.arange(CATEGORICAL_SIZE), sizes)
    kept = column_of_value[np.argsort(-counts, kind="stable")[: vocab_size - FIELD_SIZE]]
    return [int(size) for size in np.bincount(kept, minlength=CATEGORICAL_SIZE)]
