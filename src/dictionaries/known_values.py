"""The values that a growing vocabulary knows at one moment, for look-ups alone.

Nothing here is ever changed, so readers need no lock. What changes makes a new table, which costs
some copies of arrays and no loop over the values.
"""

from __future__ import annotations

import numpy as np

from src.dictionaries.value_keys import value_keys
from src.dictionaries.vocabulary import UnknownCells
from src.process.arrays import Array

_NONE = np.int64(-1)


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

    def look_up(self, ids: Array, oov: Array, values: Array) -> Array:
        """The ids of rows; arguments as for ``Vocabulary.look_up``.

        Returns:
            int32[rows, 39], with the ids of the values that have one.
        """
        cells = UnknownCells(oov, values)
        if not len(self._keys) or not len(cells.keys):
            return ids
        places = np.minimum(np.searchsorted(self._keys, cells.keys), len(self._keys) - 1)
        found = np.where(self._keys[places] == cells.keys, self._ids[places], _NONE)
        looked_up, _ = cells.put(ids, oov, found, 0)
        return looked_up
