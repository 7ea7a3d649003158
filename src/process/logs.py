"""How every script logs: to stderr, time, level and module first."""

from __future__ import annotations

import logging
import os
import sys


def configure_logging(level: int = logging.INFO) -> None:
    """Sets up the root logger.

    kafka-python and MindPandas report every connection and retry. Our own modules log what matters
    of it in one line. A standard file that is closed becomes ``/dev/null``: otherwise the next
    connection or file would get its number, and what is printed would go there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for as long as it runs
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def keep_stdout_for_ourselves() -> None:
    """Sends what native libraries print on stdout to stderr; ``print`` still goes to stdout.

    The engine's client prints a greeting on stdout, where only the documented loss lines belong.
    """
    ours = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = os.fdopen(ours, "w", buffering=1)
