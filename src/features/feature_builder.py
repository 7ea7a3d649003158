"""Turns parsed rows into ids and weights, through MindPandas."""

from __future__ import annotations

import mindpandas
import pandas as pd
from mindpandas import config as mindpandas_config
from mindpandas.backend.eager.partition_operators import SinglethreadOperator

from src.dictionaries.dictionaries import Dictionaries
from src.features.column_functions import ColumnFunction
from src.features.row_coder import FIELD_NAMES, RowCoder, field_columns
from src.process.arrays import Array
from src.rows.criteo import FIELD_SIZE, ParsedRows

_FIELD_NAMES = pd.Index(FIELD_NAMES)


class FeatureBuilder(RowCoder):
    """Turns parsed rows into ids and weights through MindPandas; arguments as for ``RowCoder``."""

    def __init__(
        self, dictionaries: Dictionaries, dense_transform: str = "minmax", vocab_size: int = 0
    ) -> None:
        super().__init__(dictionaries, dense_transform, vocab_size)
        # The default of 16 × 16 partitions makes windows of some thousand rows many times slower.
        mindpandas_config.set_partition_shape((1, 1))

    def applied(self, rows: ParsedRows, functions: dict[str, ColumnFunction]) -> Array:
        """The columns after their functions, float64[rows, 39]."""

        def code(column: pd.Series) -> Array:
            return functions[column.name](column.to_numpy())

        # With "broadcast" pandas writes the results into one array: building a frame of 39 results
        # takes longer.
        frame = pd.DataFrame(field_columns(rows), columns=_FIELD_NAMES, copy=False)
        columns = mindpandas.DataFrame(frame)
        # Else each ``apply`` starts a pool of threads, and waits for the one that has the one part.
        columns.backend_frame.ops = SinglethreadOperator
        applied = columns.apply(code, axis=0, result_type="broadcast")
        # MindPandas turns a frame of one row into a series.
        coded: Array = applied.to_numpy().reshape(-1, FIELD_SIZE)
        return coded
