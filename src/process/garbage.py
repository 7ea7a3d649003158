"""How often the interpreter searches for reference cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 100_000


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Searches for cycles after 100,000 new objects, not 700, and only among new objects.

    A row read from Kafka is a few objects, none of them in a cycle, and a consumer holds many rows
    at a time. Searching them again and again takes a tenth of its time.
    """
    first, second, third = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS, second, third)
    try:
        yield
    finally:
        gc.set_threshold(first, second, third)
        gc.unfreeze()
