"""The limits of the machine itself, measured in the same run as the steps."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from mindspore import Tensor, nn, ops

from benchmarks.timing import rate_of, seconds_of
from src.process.arrays import Array

BYTES_A_THREAD = 256 << 20  # more than fits a cache that virtual machines share
TIMES = 10


class Memory:
    """All cores read and write memory in place, as an optimizer does."""

    def __init__(self) -> None:
        threads = os.cpu_count() or 1
        self._arrays = [np.ones(BYTES_A_THREAD // 4, dtype=np.float32) for _ in range(threads)]

    def bandwidth(self) -> float:
        """Bytes read and written per second."""
        with ThreadPoolExecutor(len(self._arrays)) as pool:
            seconds = seconds_of(lambda: list(pool.map(_rescale, self._arrays)))
        return 2 * len(self._arrays) * BYTES_A_THREAD / seconds


def _rescale(array: Array) -> None:
    np.multiply(array, np.float32(1), out=array)


class Multiplier:
    """The float32 matrix product [rows, inputs] · [outputs, inputs]ᵀ, by NumPy and by MindSpore."""

    def __init__(self, rows: int, inputs: int, outputs: int) -> None:
        random = np.random.default_rng(1)
        self._left = random.random((rows, inputs), dtype=np.float32)
        self._right = random.random((outputs, inputs), dtype=np.float32)
        self._layer = _Product()
        self._tensors = Tensor(self._left), Tensor(self._right)
        self._amount = TIMES * rows * inputs * outputs

    def by_numpy(self) -> float:
        """Multiply-adds per second."""
        return rate_of(self._multiply_by_numpy, self._amount)

    def by_mindspore(self) -> float:
        """Multiply-adds per second."""
        return rate_of(self._multiply_by_mindspore, self._amount)

    def _multiply_by_numpy(self) -> None:
        for _ in range(TIMES):
            np.matmul(self._left, self._right.T)

    def _multiply_by_mindspore(self) -> None:
        for _ in range(TIMES):
            self._layer(*self._tensors).asnumpy()


class _Product(nn.Cell):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.product = ops.MatMul(transpose_b=True)

    def construct(self, left: Tensor, right: Tensor) -> Tensor:
        return self.product(left, right)
