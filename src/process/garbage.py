"""How often the interpreter looks for garbage that is part of a cycle."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 100_000


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Has cycles looked for after 100,000 new objects, not 700, and not among those there are now.

    A row read from Kafka is some objects, none of them in a cycle, and a consumer holds many rows
    at a time: to look through them again and again takes a tenth of its time.
    """
    first, second, third = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS, second, third)
    try:
        yield
    finally:
        gc.set_threshold(first, second, third)
        gc.unfreeze()
