"""Step 4: pushes the rows of each file to the topic, one process and one partition per file."""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Optional

from src.config import add_shared_flags
from src.process.logs import configure_logging
from src.process.stop import STOP_SIGNALS, StopFlag, stop_on_signals
from src.rows.criteo import VALUE_FORMATS
from src.stream.produce import (
    ProduceError,
    ProduceOptions,
    check_file,
    check_partitions,
    produce_file,
)

logger = logging.getLogger("producer")

STOP_SECONDS = 4.5


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--file1", default="./output1.tsv", help="rows for partition 0")
    parser.add_argument("--file2", default="./output2.tsv", help="rows for partition 1; or empty")
    parser.add_argument("--rate", type=float, default=0.0, help="rows/s and file; 0 for no limit")
    parser.add_argument("--value_format", choices=VALUE_FORMATS, default="tsv", help="wire format")
    parser.add_argument("--resume", action="store_true", help="go on behind the last row sent")
    add_shared_flags(parser, "bootstrap_servers", "topic")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.rate < math.inf:
        parser.error(f"--rate must be a number from 0 on, not {arguments.rate}")
    if not (arguments.file1 or arguments.file2):
        parser.error("nothing to produce: --file1 and --file2 are empty")
    if arguments.resume and arguments.value_format == "json":
        parser.error("--resume needs the row numbers that only --value_format=tsv sends as keys")
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Produces the files; returns 0 when every row was delivered or a stop was asked for."""
    arguments = parse_args(argv)
    configure_logging()
    named = enumerate((arguments.file1, arguments.file2))
    files = {partition: Path(name) for partition, name in named if name}
    options = ProduceOptions(
        arguments.bootstrap_servers,
        arguments.topic,
        arguments.value_format,
        arguments.rate,
        arguments.resume,
    )
    flag = StopFlag()
    stop_on_signals(flag)
    try:
        for path in files.values():
            check_file(path)
        check_partitions(options, max(files) + 1)
    except ProduceError as error:
        logger.error("%s", error)
        return 1
    return _produce_all(files, options, flag)


def _produce_all(files: Mapping[int, Path], options: ProduceOptions, flag: StopFlag) -> int:
    """Runs a process for each file and waits for all of them."""
    processes = multiprocessing.get_context("spawn")
    stopped, delivered = processes.Event(), processes.Array("q", max(files) + 1)
    children = [
        processes.Process(
            target=_child, args=(path, partition, options, stopped, delivered), name=str(path)
        )
        for partition, path in files.items()
    ]
    began = time.monotonic()
    _start(children)
    _wait(children, stopped, flag)
    seconds = time.monotonic() - began
    rows = sum(delivered[:])
    logger.info(
        "produced %d rows from %d files in %.1f s (%.0f rows/s)%s",
        *(rows, len(files), seconds, rows / seconds),
        f", stopped by {flag.reason}" if flag.is_set() else "",
    )
    return 1 if any(child.exitcode for child in children) else 0


def _start(children: Sequence[BaseProcess]) -> None:
    """Starts the children deaf to Ctrl-C and to a kill of the whole group: the parent acts on it.

    They inherit the blocked signals; the parent's own thread for signals listens all the while.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        for child in children:
            child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _wait(children: Sequence[BaseProcess], stopped: Event, flag: StopFlag) -> None:
    """Waits for all children; a stop or the failure of one ends the others, by force if need be."""
    kill_at = math.inf
    while alive := [child for child in children if child.is_alive()]:
        connection.wait([child.sentinel for child in alive], timeout=0.1)
        if not stopped.is_set() and (flag.is_set() or any(child.exitcode for child in children)):
            stopped.set()
            kill_at = time.monotonic() + STOP_SECONDS
        if time.monotonic() >= kill_at:
            for child in alive:
                child.kill()
                child.join()
    for child in children:
        if (child.exitcode or 0) < 0:
            logger.error("%s: its process was killed (%d)", child.name, child.exitcode)


def _child(
    path: Path, partition: int, options: ProduceOptions, stopped: Event, delivered: Any
) -> None:
    configure_logging()
    _end_with_parent()
    try:
        delivered[partition] = produce_file(path, partition, options, stopped.is_set)
    except ProduceError as error:
        delivered[partition] = error.delivered
        logger.error("%s", error)
        sys.exit(1)


def _end_with_parent() -> None:
    """Ends this process at once when its parent is gone, killed perhaps.

    A producer started again with --resume must not meet the rows of its predecessor's children.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
