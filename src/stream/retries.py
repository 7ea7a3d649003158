"""Why kafka-python's producer sends rows again: it tells that to its log alone."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

logger = logging.getLogger(__name__)

SENDER = "kafka.producer.sender"
REPORT_SECONDS = 5.0
REASONS = {
    name: "fewer replicas are in sync than min.insync.replicas asks for"
    for name in ("NotEnoughReplicasError", "NotEnoughReplicasAfterAppendError")
}


class RetryReasons(logging.Handler):
    """Hears the producer's log and repeats in one line, now and then, why it waits.

    Attributes:
        last: The broker's last reason not to take rows; empty where it took all so far.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self._report_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Takes the name of the error out of a record about a retry."""
        if not isinstance(record.args, tuple) or "retrying" not in record.msg:
            return
        names = [text for text in record.args if isinstance(text, str) and text.endswith("Error")]
        if not names:
            return
        self.last = REASONS.get(names[0], names[0])
        if time.monotonic() >= self._report_at:
            self._report_at = time.monotonic() + REPORT_SECONDS
            logger.warning("the broker takes no rows, trying again: %s", self.last)


@contextlib.contextmanager
def heard_retries() -> Iterator[RetryReasons]:
    """Hears the producers of this process while the block runs."""
    heard, sender = RetryReasons(), logging.getLogger(SENDER)
    level, propagate = sender.level, sender.propagate
    sender.addHandler(heard)
    sender.setLevel(logging.WARNING)
    sender.propagate = False  # our own line says what matters of it
    try:
        yield heard
    finally:
        sender.removeHandler(heard)
        sender.setLevel(level)
        sender.propagate = propagate
