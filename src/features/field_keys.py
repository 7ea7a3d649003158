"""Every field of a row as a number that follows from its value alone: the field's key.

Ids change with the dictionaries and with a growing vocabulary. Keys do not: a value has the same
key after a restart, on any rank, with any dictionary. A dense field's key is that of its bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from src.dictionaries.value_keys import mixed
from src.dictionaries.value_table import keys_of
from src.features.column_functions import BUCKETS, bucket_dense_column
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_SIZE, FIELD_SIZE, ParsedRows

KEY_BITS = 30
"""The sum of two keys fits a signed 32-bit number."""
_SALTS = mixed(np.arange(201, 201 + FIELD_SIZE, dtype=np.uint64))


def _hashed(numbers: Array, salts: Array) -> Array:
    """int32 keys of uint64 numbers, in fields with these salts."""
    keys: Array = (mixed(numbers ^ salts) >> np.uint64(64 - KEY_BITS)).astype(np.int32)
    return keys


_BUCKET_KEYS = _hashed(np.arange(BUCKETS, dtype=np.uint64), _SALTS[:DENSE_SIZE, None])
_DENSE_PLACES = np.arange(DENSE_SIZE)
_MISSING_KEYS = _hashed(np.full(CATEGORICAL_SIZE, 2**64 - 1, np.uint64), _SALTS[DENSE_SIZE:])


def field_keys(rows: ParsedRows) -> Array:
    """The keys of rows.

    Two values of a column have the same key with probability 2^-30.

    Returns:
        int32[rows, 39], in [0, 2^30).
    """
    keys = np.empty((len(rows.numbers), FIELD_SIZE), dtype=np.int32)
    keys[:, :DENSE_SIZE] = _BUCKET_KEYS[_DENSE_PLACES, bucket_dense_column(rows.numbers)]
    sizes = [len(values) for values in rows.values]
    salts = np.repeat(_SALTS[DENSE_SIZE:], sizes)
    by_column = np.split(_hashed(_numbers_of(rows.values), salts), np.cumsum(sizes)[:-1])
    for place, known in enumerate(by_column):
        # The key of a missing value comes last, so code -1 selects it.
        with_missing = np.append(known, _MISSING_KEYS[place])
        keys[:, DENSE_SIZE + place] = with_missing[rows.codes[:, place]]
    return keys


def _numbers_of(values: Sequence[pa.Array]) -> Array:
    """Distinct values as uint64: their bytes where these are at most eight, else a digest."""
    joined = pa.concat_arrays(values)
    numbers, is_short = keys_of(joined)
    if is_short.all():
        return numbers
    long_texts = joined.filter(pa.array(~is_short)).to_pylist()
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in long_texts]
    numbers = numbers.copy()
    numbers[~is_short] = np.frombuffer(b"".join(digests), dtype="<u8")
    return numbers
