"""Memory of a process that runs for months: when garbage is searched for, how the heap is kept."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 30_000
_M_ARENA_MAX = -8  # from glibc's malloc.h


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Searches for cycles after 30,000 new objects, not 700, and only among new objects.

    A row read from Kafka is a few objects, none of them in a cycle, and a consumer holds many rows
    at a time. Searching them again and again takes a tenth of its time. It can't be left out: a
    fetch of kafka-python that times out leaves a cycle of some fifty objects.
    """
    first, second, third = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS, second, third)
    try:
        yield
    finally:
        gc.set_threshold(first, second, third)
        gc.unfreeze()


def use_one_heap() -> None:
    """Lets all threads started from here on share the main thread's heap.

    glibc gives threads heaps of their own. What one thread frees there, the others can't use. The
    freed pieces of a consumer grew to twice the memory in use, and did not stop growing. Where the
    C library is another one, nothing is done.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)
