"""Turns parsed rows into ids and weights, column by column.

The consumer's ``FeatureBuilder`` does the same through MindPandas. Who scores rows can't wait for
MindPandas to be imported.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from src.dictionaries.dictionaries import Dictionaries
from src.dictionaries.known_values import KnownValues
from src.dictionaries.oov import UnknownValues, oov_bits, oov_cells, unknown_values_of_column
from src.features.column_functions import ColumnFunction, ids_of_codes, look_up_values
from src.features.dense_coding import DENSE_TRANSFORMS, DenseCoding
from src.features.field_keys import field_keys
from src.process.arrays import Array
from src.rows.criteo import (
    CATEGORICAL_COLUMNS,
    DENSE_COLUMNS,
    DENSE_SIZE,
    FIELD_SIZE,
    ParsedRows,
)

FIELD_NAMES = (*DENSE_COLUMNS, *CATEGORICAL_COLUMNS)


class RowCoder:
    """Turns parsed rows into ids and weights.

    Args:
        dictionaries: Bounds and ids.
        dense_transform: How dense columns become ids and weights, see ``DenseCoding``.
        vocab_size: Rows of the embedding table. Needed for transforms other than ``minmax``, and
            where the values out of vocabulary are wanted.

    Raises:
        DictionaryError: The vocabulary is too small for the transform.
    """

    def __init__(
        self, dictionaries: Dictionaries, dense_transform: str = "minmax", vocab_size: int = 0
    ) -> None:
        self._dense = DenseCoding(dense_transform, dictionaries, vocab_size)
        self._dictionaries = dictionaries
        self._oov_ids = dictionaries.oov_ids
        self.free_ids = (dictionaries.vocab_size_needed, self._dense.end_id)
        self.fingerprint = self._dense.fingerprint
        self.dense_transform = DENSE_TRANSFORMS.index(dense_transform)

    def build(self, rows: ParsedRows, known: KnownValues | None = None) -> tuple[Array, Array]:
        """(id int32[rows, 39], weight float32[rows, 39]) of the parsed rows.

        Args:
            rows: The rows.
            known: Values that have ids though the dictionaries lack them; None for no others.
        """
        ids_by_column = look_up_values(rows.values, self._dictionaries)
        if known is not None:
            ids_by_column = known.fill_in(ids_by_column, rows.values, self._oov_ids)
        by_name = zip(CATEGORICAL_COLUMNS, ids_by_column)
        look_ups = {column: partial(ids_of_codes, ids=ids) for column, ids in by_name}
        coded = self.applied(rows, {**self._dense.functions, **look_ups})
        dense_ids, dense_weights = self._dense.fields(coded[:, :DENSE_SIZE])
        return assemble(dense_weights, coded[:, DENSE_SIZE:], dense_ids)

    def applied(self, rows: ParsedRows, functions: dict[str, ColumnFunction]) -> Array:
        """The columns after their functions.

        Args:
            rows: Dense values and codes are the columns.
            functions: By ``I1..I13`` and ``C1..C26``.

        Returns:
            float64[rows, 39].
        """
        columns = field_columns(rows)
        for place, name in enumerate(FIELD_NAMES):
            columns[:, place] = functions[name](columns[:, place])
        return columns

    def oov(self, ids: Array) -> Array:
        """Which categorical fields of rows built here are out of vocabulary, uint32[rows]."""
        return oov_bits(ids, self._oov_ids)

    def unknown(self, rows: ParsedRows, ids: Array) -> UnknownValues:
        """The values that are out of vocabulary, of rows whose ids were built here."""
        is_unknown = oov_cells(self.oov(ids))
        columns = [
            unknown_values_of_column(codes, values, is_unknown[:, place])
            for place, (codes, values) in enumerate(zip(rows.codes.T, rows.values))
        ]
        widest = max(column.dtype.itemsize for column in columns)
        # Few different widths, as a trainer joins rows of several windows.
        values = np.empty(ids.shape[:1] + (len(columns),), dtype=f"S{-(-widest // 8) * 8}")
        for place, column in enumerate(columns):
            values[:, place] = column
        return UnknownValues(values, self.free_ids)

    def keys(self, rows: ParsedRows) -> Array:
        """The keys of the fields of rows, int32[rows, 39], see ``field_keys``."""
        return field_keys(rows)


def field_columns(rows: ParsedRows) -> Array:
    """float64[rows, 39]: the dense values, then the categorical codes; columns are contiguous."""
    fields = np.empty((len(rows.numbers), FIELD_SIZE), dtype=np.float64, order="F")
    fields[:, :DENSE_SIZE] = rows.numbers
    fields[:, DENSE_SIZE:] = rows.codes
    return fields


def assemble(dense_weights: Array, categorical_ids: Array, dense_ids: Array) -> tuple[Array, Array]:
    """Joins dense and categorical fields.

    Args:
        dense_weights: float32[rows, 13], or the same numbers as float64.
        categorical_ids: int32[rows, 26], or the same numbers as float64.
        dense_ids: int32[13] or int32[rows, 13].

    Returns:
        (id int32[rows, 39], weight float32[rows, 39]); a categorical field has weight 1.
    """
    rows = len(dense_weights)
    ids = np.empty((rows, FIELD_SIZE), dtype=np.int32)
    ids[:, :DENSE_SIZE] = dense_ids
    ids[:, DENSE_SIZE:] = categorical_ids
    weights = np.ones((rows, FIELD_SIZE), dtype=np.float32)
    weights[:, :DENSE_SIZE] = dense_weights
    return ids, weights
