"""consumer.py itself, which also records when it sent each window.

python benchmarks/freshness/timed_consumer.py EVENTS_FILE FLAGS_OF_CONSUMER…
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import consumer
from benchmarks.freshness.events import EventFile, last_offsets
from src.channel import sender as sender_module
from src.channel.actor_call import GiveUp, never
from src.process.arrays import Array


class TimedSender(sender_module.WindowSender):
    """Records the time before it sends a window."""

    events: EventFile

    def send_window(self, window: Array, give_up: GiveUp = never) -> bool:
        """Sends a window."""
        self.events.add(time.time(), last_offsets(window))
        return super().send_window(window, give_up)


def main(argv: Sequence[str]) -> int:
    """Runs the consumer; returns its exit code."""
    TimedSender.events = EventFile(Path(argv[0]))
    setattr(sender_module, "WindowSender", TimedSender)  # noqa: B010 - consumer.py imports it late
    return consumer.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
