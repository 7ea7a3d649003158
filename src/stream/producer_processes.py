"""The producer's processes: one for each file, and all of them stop together."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Callable

from src.process.logs import configure_logging
from src.process.stop import STOP_SIGNALS, StopFlag
from src.rows.opened_file import OpenedFile
from src.stream.produce import ProduceError, ProduceOptions

logger = logging.getLogger(__name__)

STOP_SECONDS = 4.5

# Sends a file's rows to a partition until a stop is asked for; returns how many were delivered.
SendFile = Callable[[OpenedFile, int, ProduceOptions, Callable[[], bool]], int]


class ProducerProcesses:
    """Runs a function for each file, in a process of its own.

    A stop, or the failure of one process, stops the others. A process that has not ended after
    ``STOP_SECONDS`` is killed.

    Args:
        send: The function, importable by name.
        options: Where to and how.
    """

    def __init__(self, send: SendFile, options: ProduceOptions) -> None:
        self._send = send
        self._options = options
        self._context = multiprocessing.get_context("spawn")
        self._stopped = self._context.Event()
        self._children: list[BaseProcess] = []
        self._delivered: list[Synchronized[int]] = []

    def start(self, file: OpenedFile, partition: int) -> None:
        """Starts the process that sends a file to a partition, and closes the file here.

        The child ignores Ctrl-C and a kill of the whole group, because the parent acts on them. It
        inherits the blocked signals; the parent's thread for signals listens all the while.
        """
        delivered = self._context.Value("q", 0)
        arguments = (self._send, file, partition, self._options, self._stopped, delivered)
        child = self._context.Process(target=_run, args=arguments, name=file.name)
        self._children.append(child)
        self._delivered.append(delivered)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            child.start()
        finally:
            file.close()  # the child has it; the writer of a pipe must notice when it ends
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def wait(self, stop: StopFlag) -> None:
        """Waits until all processes have ended."""
        kill_at = math.inf
        while alive := [child for child in self._children if child.is_alive()]:
            connection.wait([child.sentinel for child in alive], timeout=0.1)
            if not self._stopped.is_set() and (stop.is_set() or self.failed):
                self._stopped.set()
                kill_at = time.monotonic() + STOP_SECONDS
            if time.monotonic() >= kill_at:
                _kill(alive)
        for child in self._children:
            if (child.exitcode or 0) < 0:
                logger.error("%s: its process was killed (%d)", child.name, child.exitcode)

    @property
    def failed(self) -> bool:
        """Whether a process has ended with an error."""
        return any(child.exitcode for child in self._children)

    @property
    def delivered(self) -> int:
        """How many rows were delivered by the processes that have ended."""
        return sum(count.value for count in self._delivered)


def _kill(children: Sequence[BaseProcess]) -> None:
    for child in children:
        child.kill()
        child.join()


def _run(
    send: SendFile,
    file: OpenedFile,
    partition: int,
    options: ProduceOptions,
    stopped: Event,
    delivered: Synchronized[int],
) -> None:
    configure_logging()
    _end_with_parent()
    try:
        delivered.value = send(file, partition, options, stopped.is_set)
    except ProduceError as error:
        delivered.value = error.delivered
        logger.error("%s", error)
        sys.exit(1)


def _end_with_parent() -> None:
    """Ends this process at once when its parent is gone, killed perhaps.

    Otherwise a producer started again with --resume would meet rows that the old processes still
    send.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
