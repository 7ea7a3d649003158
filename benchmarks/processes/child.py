"""Calls a function in a new process, so that memory, threads and imports are its own."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any, Callable

from src.process.exit_handlers import keep_modules_until_exit
from src.process.logs import configure_logging


def run_in_child(function: Callable[..., Any], *arguments: Any) -> Any | None:
    """What a function returns, called in a new process; None when it failed.

    In that case its traceback is on stderr.

    Args:
        function: Of a module's top level, so that the new process finds it.
        *arguments: Its arguments.
    """
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    answer = None
    with contextlib.suppress(EOFError):  # it died
        answer = ours.recv()
    process.join()
    return answer


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    configure_logging(logging.WARNING)
    try:
        pipe.send(function(*arguments))
    finally:
        keep_modules_until_exit()
