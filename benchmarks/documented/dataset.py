"""The documented dataset: MindSpore calls ``__getitem__`` for each row, and makes batches."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
from mindspore.dataset import GeneratorDataset

from src.process.arrays import Array

ROW_COUNT = 10_000_000  # a stream has no end, but MindSpore needs a length and lists its indices


class RowDataset:
    """Rows for ``mindspore.dataset.GeneratorDataset``, one for each ``__getitem__``.

    Args:
        receive: Returns the next window: an object array [rows, 3] of id, weight and label.
    """

    def __init__(self, receive: Callable[[], Array]) -> None:
        self._receive = receive
        self._rows: list[Any] = []

    def __len__(self) -> int:
        return ROW_COUNT

    def __getitem__(self, index: int) -> tuple[Array, Array, Array]:
        while not self._rows:
            self._rows = self._receive().tolist()[::-1]
        ids, weights, label = self._rows.pop()
        return (
            np.array(ids, dtype=np.int32),
            np.array(weights, dtype=np.float32),
            np.array(label, dtype=np.float32),
        )


def row_batches(source: RowDataset, batch_size: int) -> Any:
    """A MindSpore dataset of batches made of single rows."""
    dataset = GeneratorDataset(source, ["id", "weight", "label"], shuffle=False)
    return dataset.batch(batch_size)
