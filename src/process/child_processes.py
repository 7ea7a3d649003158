"""Processes that end when the one that started them does, however that came about."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def ended_with_parent(number: int = signal.SIGKILL) -> Callable[[], None]:
    """Makes a function for a child to call before exec: the signal reaches it when we die.

    Linux sends the signal when the *thread* that started the child ends: only the main thread may.
    """
    libc = ctypes.CDLL(None)  # loaded here: nothing may be loaded after the fork
    parent = os.getpid()

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent died before the line above
            os.kill(os.getpid(), number)

    return before_exec


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Has this process get the signal when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
