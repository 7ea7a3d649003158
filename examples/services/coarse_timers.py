"""Processes that wake up from their pauses a little late, and so less often.

One daemon of the yr engine looks ten thousand times a second whether a client uses its streams.
Nobody here does. That takes a seventh of a core, from the first client on, and no flag of the
engine changes it. Linux lets a process say how late its pauses may end. A process that it starts
inherits this.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

TIMER_SLACK_NANOSECONDS = 1_000_000
_PR_SET_TIMERSLACK = 29  # from Linux' prctl.h
_USUAL = 0


@contextlib.contextmanager
def coarse_timers() -> Iterator[None]:
    """Pauses of the processes that this thread starts here may end a millisecond late.

    What ends a wait for data is not late. On other systems than Linux nothing is changed.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        yield
        return
    prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(TIMER_SLACK_NANOSECONDS), 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_USUAL), 0, 0, 0)
