"""Step 4: pushes the rows of each file to the topic, one process and one partition per file."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Optional

from src.config import add_shared_flags
from src.criteo import VALUE_FORMATS
from src.logs import configure_logging
from src.produce import ProduceError, ProduceOptions, check_file, check_partitions, produce_file
from src.stop import StopFlag, stop_on_signals

logger = logging.getLogger("producer")


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
    if arguments.rate < 0:
        parser.error(f"--rate must not be negative, not {arguments.rate}")
    if arguments.resume and arguments.value_format == "json":
        parser.error("--resume needs the row numbers that only --value_format=tsv sends as keys")
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Produces the files; returns 0 when every row was delivered or a stop was asked for."""
    arguments = parse_args(argv)
    configure_logging()
    files = [Path(name) for name in (arguments.file1, arguments.file2) if name]
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
        for path in files:
            check_file(path)
        check_partitions(options, len(files))
    except ProduceError as error:
        logger.error("%s", error)
        return 1
    return _produce_all(files, options, flag)


def _produce_all(files: Sequence[Path], options: ProduceOptions, flag: StopFlag) -> int:
    """Runs a process for each file and waits for all of them."""
    processes = multiprocessing.get_context("spawn")
    stopped, delivered = processes.Event(), processes.Array("q", len(files))
    children = [
        processes.Process(target=_child, args=(path, number, options, stopped, delivered))
        for number, path in enumerate(files)
    ]
    began = time.monotonic()
    for child in children:
        child.start()
    while any(child.is_alive() for child in children):
        if flag.wait(0.1) or any(child.exitcode for child in children):
            stopped.set()
            for child in children:
                child.join()
    seconds = time.monotonic() - began
    rows = sum(delivered[:])
    logger.info(
        "produced %d rows from %d files in %.1f s (%.0f rows/s)%s",
        *(rows, len(files), seconds, rows / seconds),
        f", stopped by {flag.reason}" if flag.is_set() else "",
    )
    return 1 if any(child.exitcode for child in children) else 0


def _child(
    path: Path, partition: int, options: ProduceOptions, stopped: Event, delivered: Sequence[int]
) -> None:
    configure_logging()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent to act on
    try:
        delivered[partition] = produce_file(  # type: ignore[index]
            path, partition, options, stopped.is_set
        )
    except ProduceError as error:
        logger.error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
