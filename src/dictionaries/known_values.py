"""The values that a growing vocabulary knows at one moment, for look-ups alone.

Nothing here is ever changed, so readers need no lock. What changes makes a new table, which costs
some copies of arrays and no loop over the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from src.dictionaries.oov import MAX_VALUE_BYTES
from src.dictionaries.value_keys import fixed_width, value_keys
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_SIZE

_MISSING_KEYS = value_keys(np.arange(CATEGORICAL_SIZE), np.zeros(CATEGORICAL_SIZE, dtype="S1"))


class KnownValues:
    """Ids by the keys of their values.

    Args:
        keys: uint64[k], ascending, each once.
        ids: int32[k].
    """

    def __init__(self, keys: Array, ids: Array) -> None:
        self._keys, self._ids = keys, ids

    def __len__(self) -> int:
        return len(self._ids)

    @classmethod
    def of(cls, columns: Array, values: Array, ids: Array) -> KnownValues:
        """The table of these values, each once; arguments as for ``changed``."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.int32)).changed(
            ids[:0], columns, values, ids
        )

    def changed(self, freed: Array, columns: Array, values: Array, ids: Array) -> KnownValues:
        """The table after a change.

        Args:
            freed: int[f], ids that no value has any more, or that now belong to another one.
            columns: int[k], the columns of the values that get ids, 0 for C1 … 25 for C26.
            values: S[k], their UTF-8 bytes.
            ids: int[k], their ids. Whatever had one of them before has it no longer.
        """
        gone = np.concatenate((freed, ids)).astype(np.int64)
        is_kept_id = np.ones(1 + max(gone.max(initial=0), self._ids.max(initial=0)), dtype=bool)
        is_kept_id[gone] = False
        is_kept = is_kept_id.take(self._ids)
        new_keys = value_keys(columns.astype(np.int64), values)
        order = np.argsort(new_keys, kind="stable")
        kept, new_keys = self._keys[is_kept], new_keys[order]
        places = np.searchsorted(kept, new_keys)
        return KnownValues(
            np.insert(kept, places, new_keys),
            np.insert(self._ids[is_kept], places, ids[order].astype(np.int32)),
        )

    def fill_in(
        self, ids: Sequence[Array], values: Sequence[pa.Array], unknown_ids: Array
    ) -> list[Array]:
        """The ids of distinct values, those included that the dictionaries lack.

        Args:
            ids: By column int32[values + 1] by the dictionaries, the last one of a missing value.
            values: By column the distinct values, pyarrow strings without null.
            unknown_ids: int32[columns], the ids that stand for values out of vocabulary.

        Returns:
            As ``ids``; a value without an id stays out of vocabulary. So does one that no trainer
            learns, see ``oov.unknown_values_of_column``.
        """
        sizes = [len(column) for column in values]
        flat = np.concatenate([column[:-1] for column in ids])
        columns = np.arange(len(sizes)).repeat(sizes)
        texts, is_learnable = fixed_width(pa.concat_arrays(values), MAX_VALUE_BYTES)
        places = np.flatnonzero((flat == unknown_ids[columns]) & is_learnable)
        keys = value_keys(columns[places], texts[places])
        flat[places] = self._ids_of(keys, flat[places])
        missing = np.array([column[-1] for column in ids])
        found = np.where(missing == unknown_ids, self._ids_of(_MISSING_KEYS, missing), missing)
        filled = np.split(flat, np.cumsum(sizes)[:-1])
        return [np.append(column, last) for column, last in zip(filled, found)]

    def _ids_of(self, keys: Array, otherwise: Array) -> Array:
        """The ids of keys, or else those given."""
        if not len(self._keys):
            return otherwise
        order = np.argsort(keys)  # in order, look-ups that follow each other share cache lines
        places = np.empty(len(keys), dtype=np.int64)
        places[order] = np.searchsorted(self._keys, keys[order])
        places = np.minimum(places, len(self._keys) - 1)
        ids: Array = np.where(self._keys[places] == keys, self._ids[places], otherwise)
        return ids
