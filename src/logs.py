"""How every script logs: to stderr, time, level and module first."""

from __future__ import annotations

import logging


def configure_logging(level: int = logging.INFO) -> None:
    """Sets up the root logger.

    kafka-python and MindPandas report every connection and retry; what matters of it, our own
    modules say in one line.
    """
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
