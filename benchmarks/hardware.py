"""What the machine itself can do, measured in the same run as what is held against it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.timing import medians, seconds_of, take_turns
from src.arrays import Array

BYTES_A_THREAD = 512 << 20  # far more than any cache holds
REPEATS = 5


def memory_bandwidth() -> float:
    """Bytes a second that all cores together can read and write in place, as an optimizer does."""
    threads = os.cpu_count() or 1
    arrays = [np.ones(BYTES_A_THREAD // 4, dtype=np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        median = medians(
            take_turns({"": lambda: seconds_of(lambda: list(pool.map(_rescale, arrays)))}, REPEATS)
        )
    return 2 * threads * BYTES_A_THREAD / median[""]


def _rescale(array: Array) -> None:
    np.multiply(array, np.float32(1), out=array)


def multiply_adds(rows: int, inner: int, columns: int) -> float:
    """Multiply-adds a second of a float32 matrix product [rows, inner] · [inner, columns]."""
    random = np.random.default_rng(1)
    left = random.random((rows, inner), dtype=np.float32)
    right = random.random((inner, columns), dtype=np.float32)
    times = 10

    def work() -> None:
        for _ in range(times):
            np.matmul(left, right)

    median = medians(take_turns({"": lambda: seconds_of(work)}, REPEATS))
    return times * rows * inner * columns / median[""]
