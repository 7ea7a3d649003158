"""Copies of a network's parameters, so that training can go on while they are written."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import mindspore as ms
import numpy as np

from src.checkpoints.ckpt_file import bytes_of, places_in_file
from src.checkpoints.uncached_file import BLOCK_BYTES
from src.process.arrays import Array
from src.process.memory import available_bytes

logger = logging.getLogger(__name__)

SPARE_BYTES = 256 << 20
"""Memory that the copies leave to everything else."""
MOST_THREADS = 4
"""More copy no faster: memory is what limits them."""

Pair = tuple[Array, Array]


def views_of(network: ms.nn.Cell) -> dict[str, Array]:
    """A network's parameters by name; on the CPU views of memory that the next step changes."""
    network.init_parameters_data()  # of one that has never run
    return {entry.name: entry.asnumpy() for entry in network.get_parameters()}


class KeptCopies:
    """Copies arrays into memory that is kept and used again.

    New memory costs a page fault for each page. They take ten times as long as the copy. A copy
    lies in its block of memory as it will lie in a block of the file, so that ``UncachedFile`` can
    write it from where it is.

    Args:
        available: Returns how many bytes of memory are left.
    """

    def __init__(self, available: Callable[[], int] = available_bytes) -> None:
        self._available = available
        self._making = threading.Lock()
        self._copies: dict[str, Array] = {}
        self._has_complained = False

    def make_room(self, views: Mapping[str, Array]) -> bool:
        """Takes the memory for copies of these arrays, unless it is there; any thread may call it.

        Returns:
            False where there is too little. That is logged once.
        """
        with self._making:
            if not self._copies:
                self._copies = self._new_copies(views)
            return bool(self._copies)

    def take(self, views: Mapping[str, Array]) -> Mapping[str, Array] | None:
        """Copies arrays; the copies hold until the next call.

        Args:
            views: Name → array: the same names, shapes and types in each call.

        Returns:
            None where there is too little memory.
        """
        if not self.make_room(views):
            return None
        threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)
        pairs = [(bytes_of(self._copies[name]), bytes_of(view)) for name, view in views.items()]
        with ThreadPoolExecutor(threads, "checkpoint-copy") as pool:
            list(pool.map(_copy, shares(pairs, threads)))
        return self._copies

    def _new_copies(self, views: Mapping[str, Array]) -> dict[str, Array]:
        needed = sum(view.nbytes for view in views.values())
        try:
            if needed + SPARE_BYTES <= self._available():
                return _like_in_file(views)
        except MemoryError:
            pass  # the process has a limit of its own
        if not self._has_complained:
            self._has_complained = True
            logger.warning(
                "too little memory for a copy of the model (%d MB): training stands still while a "
                "checkpoint is written",
                needed >> 20,
            )
        return {}


def _like_in_file(views: Mapping[str, Array]) -> dict[str, Array]:
    """New arrays of the same shapes and types, as far apart as their contents in a file."""
    places = places_in_file(views)
    end = max((place + views[name].nbytes for name, place in places.items()), default=0)
    memory = np.empty(end + BLOCK_BYTES, np.uint8)
    memory.fill(0)  # has its pages mapped now
    memory = memory[-memory.ctypes.data % BLOCK_BYTES :]
    copies = {}
    for name, view in views.items():
        content = memory[places[name] : places[name] + view.nbytes]
        copies[name] = content.view(view.dtype).reshape(view.shape)
    return copies


def shares(pairs: Iterable[Pair], number: int) -> list[list[Pair]]:
    """Divides copies among threads.

    Args:
        pairs: (target, source), contiguous and equal in shape and type.
        number: How many threads.

    Returns:
        For each thread its pairs, in one dimension, of about as many bytes.
    """
    pairs = [(target.reshape(-1), source.reshape(-1)) for target, source in pairs]
    quota = -(-sum(target.nbytes for target, _ in pairs) // number)
    shared: list[list[Pair]] = [[] for _ in range(number)]
    place, room = 0, quota
    for target, source in pairs:
        begin = 0
        while begin < len(target):
            if room <= 0 and place < number - 1:
                place, room = place + 1, quota
            # The last thread takes what rounding to whole elements has left.
            most = -(-room // target.itemsize) if place < number - 1 else len(target)
            part = slice(begin, begin + most)
            shared[place].append((target[part], source[part]))
            room -= target[part].nbytes
            begin += most
    return shared


def _copy(pairs: Iterable[Pair]) -> None:
    for target, source in pairs:
        np.copyto(target, source)  # other threads run meanwhile
