"""Turns parsed rows into ids and weights, through MindPandas."""

from __future__ import annotations

import mindpandas
import numpy as np
import pandas as pd
from mindpandas import config as mindpandas_config

from src.dictionaries.dictionaries import Dictionaries
from src.dictionaries.oov import UnknownValues, oov_bits, oov_cells, unknown_values_of_column
from src.features.column_functions import DENSE_TRANSFORMS, ColumnFunctions, DenseCoding, assemble
from src.process.arrays import Array
from src.rows.criteo import DENSE_SIZE, ParsedRows


class FeatureBuilder:
    """Turns parsed rows into ids and weights through MindPandas.

    Args:
        dictionaries: Bounds and ids.
        dense_transform: What becomes of the dense columns, see ``column_functions.DenseCoding``.
        vocab_size: Rows of the embedding table; needed for other transforms than ``minmax``, and
            where the values out of vocabulary are asked for.

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
        # The default of 16 × 16 parts makes windows of some thousand rows many times slower.
        mindpandas_config.set_partition_shape((1, 1))

    def build(self, rows: ParsedRows) -> tuple[Array, Array]:
        """(id int32[rows, 39], weight float32[rows, 39]) of the parsed rows."""
        functions = ColumnFunctions(self._dense, self._dictionaries, rows)
        # Once for all columns: each of MindPandas' operators starts threads of its own.
        columns = mindpandas.DataFrame(pd.DataFrame(functions.columns(), copy=False))
        made = columns.apply(functions.column, axis=0, raw=True).to_numpy()[1:]
        dense_ids, dense_weights = self._dense.fields(made[:, :DENSE_SIZE])
        return assemble(dense_weights, made[:, DENSE_SIZE:], dense_ids)

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
        # Few widths: a trainer puts rows of several windows together.
        values = np.empty(ids.shape[:1] + (len(columns),), dtype=f"S{-(-widest // 8) * 8}")
        for place, column in enumerate(columns):
            values[:, place] = column
        return UnknownValues(values, self.free_ids)
