"""Child processes that end when their parent dies, even when the parent is killed."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def ended_with_parent(number: int = signal.SIGKILL) -> Callable[[], None]:
    """Makes a ``preexec_fn``: the child then receives the signal when this process dies.

    Linux sends the signal when the *thread* that started the child ends. So only the main thread
    may start it.
    """
    libc = ctypes.CDLL(None)  # loaded here: nothing may be loaded after the fork
    parent = os.getpid()

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent died before the line above
            os.kill(os.getpid(), number)

    return before_exec


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Makes this process receive the signal when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
