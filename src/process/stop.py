"""A clean stop: SIGTERM and SIGINT set a flag that every loop looks at."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Optional

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

    def wait(self, timeout: Optional[float]) -> bool:
        """Sleeps for up to ``timeout`` seconds and says whether a stop was asked for."""
        return self._event.wait(timeout)


def stop_on_signals(flag: StopFlag, signals: Sequence[signal.Signals] = STOP_SIGNALS) -> None:
    """Lets signals set the flag, even while the main thread is inside a library call.

    Python runs signal handlers only between byte codes of the main thread, which may be waiting
    for data in native code for ever. The number of a signal, however, is written to the wake-up
    descriptor at once, in whichever thread it arrives, and a thread of ours reads it there.
    (Blocking the signals and waiting for them does not do: the engine's threads unblock them.)
    Must be called from the main thread.
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


def _only_wake_up(number: int, frame: Optional[FrameType]) -> None:
    """Nothing: that a handler is there makes Python write to the wake-up descriptor."""
