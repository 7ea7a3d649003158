"""A clean stop: SIGTERM and SIGINT set a flag that every loop checks."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Set once, by a signal or by the program, and never cleared."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self.reason = ""

    def set(self, reason: str) -> None:
        """Asks for a stop; the first reason counts."""
        with self._lock:
            if not self._event.is_set():
                self.reason = reason
                self._event.set()

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    def wait(self, timeout: float | None) -> bool:
        """Sleeps until a stop or ``timeout`` seconds; returns whether a stop was asked for."""
        return self._event.wait(timeout)


class IdleLimit:
    """Asks for a stop when nothing has come for a while.

    Args:
        flag: Is set then.
        seconds: How long nothing may come; 0 for ever.
        is_held_back: Called when that time is over. If something is there that can't be had yet,
            the time begins anew.
    """

    def __init__(
        self, flag: StopFlag, seconds: float, is_held_back: Callable[[], bool] = lambda: False
    ) -> None:
        self._flag = flag
        self._seconds = seconds
        self._is_held_back = is_held_back
        self._was_held_back = False
        self._begins_anew_at = float("-inf")

    def check(self, idle_since: float) -> None:
        """Sets the flag if the time is over.

        Args:
            idle_since: When something came last, in seconds of ``time.monotonic``.
        """
        idle = time.monotonic() - max(idle_since, self._begins_anew_at)
        if not self._seconds or idle < self._seconds:
            return
        is_held_back = self._is_held_back()
        if is_held_back:
            logger.info("no rows for %g s: an open transaction holds rows back", self._seconds)
        elif not self._was_held_back:  # else it may come any moment now
            self._flag.set(f"no rows for {self._seconds:g} s")
        self._was_held_back = is_held_back
        self._begins_anew_at = time.monotonic()


def stop_on_signals(flag: StopFlag, signals: Sequence[signal.Signals] = STOP_SIGNALS) -> None:
    """Lets signals set the flag, even while the main thread is inside a library call.

    Python runs signal handlers only between byte codes of the main thread, which may wait for data
    in native code for ever. But the signal's number is written to the wake-up descriptor at once,
    in whichever thread it arrives. A thread of ours reads it there. (Blocking the signals and
    waiting for them does not work: the engine's threads unblock them.) Call it from the main
    thread.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for number in signals:
        signal.signal(number, _only_wake_up)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait_for_signals() -> None:
        with writer:  # kept open for as long as the descriptor is in use
            while numbers := reader.recv(16):
                for number in numbers:
                    if number in signals:
                        name = signal.Signals(number).name
                        logger.info("%s: stopping", name)
                        flag.set(name)

    threading.Thread(target=wait_for_signals, name="stop-signals", daemon=True).start()


def _only_wake_up(number: int, frame: FrameType | None) -> None:
    """Does nothing; with a handler in place Python writes to the wake-up descriptor."""
