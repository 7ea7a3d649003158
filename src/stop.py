"""A clean stop: SIGTERM and SIGINT set a flag that every loop looks at."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Optional

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Set once, by a signal or by the program, and never cleared."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""

    def set(self, reason: str) -> None:
        """Asks for a stop; the first reason counts."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    def wait(self, timeout: Optional[float]) -> bool:
        """Sleeps for up to ``timeout`` seconds and says whether a stop was asked for."""
        return self._event.wait(timeout)


def stop_on_signals(flag: StopFlag) -> None:
    """Lets SIGTERM and SIGINT set the flag, even while the main thread is inside a library call.

    Python runs signal handlers only between byte codes of the main thread, which may be waiting
    for data in native code for ever. So the signals are blocked in every thread (call this before
    any other thread starts) and one thread waits for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def wait_for_signals() -> None:
        while True:
            number = signal.sigwait(STOP_SIGNALS)
            name = signal.Signals(number).name
            logger.info("%s: stopping", name)
            flag.set(name)

    threading.Thread(target=wait_for_signals, name="stop-signals", daemon=True).start()
