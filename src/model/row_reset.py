"""Gives the rows of ids that were taken back the values of fresh ones."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.model.optimizers import NOTHING, Done
from src.process.arrays import Array

IDS_AT_ONCE = 256


class RowReset:
    """Resets rows in every table of a model and its optimizers.

    Args:
        row_state: The tables, each with the value of a fresh row, see ``TrainStepWrap.row_state``.
    """

    def __init__(self, row_state: list[tuple[Parameter, float]]) -> None:
        self._write = _WriteRows(row_state)

    def __call__(self, ids: Array) -> None:
        """Resets the rows of ids, int32[n]."""
        for begin in range(0, len(ids), IDS_AT_ONCE):
            some = ids[begin : begin + IDS_AT_ONCE]
            # One shape, one compiled graph; an id may be there twice.
            self._write(ms.Tensor(np.resize(some, IDS_AT_ONCE)))


class _WriteRows(nn.Cell):  # type: ignore[misc]
    def __init__(self, row_state: list[tuple[Parameter, float]]) -> None:
        super().__init__(auto_prefix=False)
        self.tables = ms.ParameterTuple([table for table, _ in row_state])
        self.rows = [
            Tensor(np.full((IDS_AT_ONCE, *table.shape[1:]), value, dtype=np.float32))
            for table, value in row_state
        ]
        self.scatter = ops.ScatterUpdate()

    def construct(self, ids: Tensor) -> Done:
        done = NOTHING
        for table, rows in zip(self.tables, self.rows):
            done += (self.scatter(table, ids, rows),)
        return done
