"""The limits of the machine itself, measured in the same run as the steps."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.timing import seconds_of
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
    """NumPy's float32 matrix product [rows, inner] · [inner, columns]."""

    def __init__(self, rows: int, inner: int, columns: int) -> None:
        random = np.random.default_rng(1)
        self._left = random.random((rows, inner), dtype=np.float32)
        self._right = random.random((inner, columns), dtype=np.float32)

    def multiply_adds(self) -> float:
        """Multiply-adds per second."""
        rows, inner = self._left.shape
        return TIMES * rows * inner * self._right.shape[1] / seconds_of(self._work)

    def _work(self) -> None:
        for _ in range(TIMES):
            np.matmul(self._left, self._right)
