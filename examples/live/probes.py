"""Probes: rows with values of their own, which show when the served model has learnt them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from examples.live.client import Answer
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_SIZE

LOGIT_MARGIN = 0.02
"""By how much a learnt probe must score beside a row that nobody has seen, in the logit."""


def probe_line(name: str, is_click: bool) -> str:
    """A row without dense values; its 26 categorical values occur in no other row."""
    return "\t".join([str(int(is_click)), *[""] * DENSE_SIZE, *[name] * CATEGORICAL_SIZE])


@dataclass
class Probe:
    """A probe and what is known of it.

    Attributes:
        name: The value of its categorical columns.
        is_click: Its label.
        sent_at: When it was handed to the producer, seconds since 1970.
        partition: Where the broker put it; None until it has answered.
        offset: Its offset there.
        passed_at: When the first answer came whose position is after its offset.
        learnt_at: When the first such answer came in which its score had moved, too.
        version: The version of that answer.
    """

    name: str
    is_click: bool
    sent_at: float
    partition: int | None = None
    offset: int = -1
    passed_at: float | None = None
    learnt_at: float | None = None
    version: int = 0

    @property
    def line(self) -> str:
        """The row."""
        return probe_line(self.name, self.is_click)


class Probes:
    """All probes of a run; safe for use by several threads.

    Every other one is clicked. Were all of them, the model would learn that from what they share,
    and the next one would have nothing to teach.

    Args:
        run: Part of their names, so that no other run's values are met again.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._waiting: list[Probe] = []
        self.all: list[Probe] = []
        self.control = probe_line(f"{run}-control", is_click=False)
        """A row that is never sent: how the present version scores what nobody has seen."""

    def new(self, now: float) -> Probe:
        """The next probe, which is sent now."""
        with self._lock:
            number = len(self.all)
            probe = Probe(f"{self._run}-{number:06d}", number % 2 == 1, now)
            self.all.append(probe)
            return probe

    def acknowledged(self, probe: Probe, partition: int, offset: int) -> None:
        """The broker has taken a probe; from now on answers are searched for it."""
        with self._lock:
            probe.partition, probe.offset = partition, offset
            self._waiting.append(probe)

    def waiting(self, limit: int) -> list[Probe]:
        """The oldest probes that were not learnt yet."""
        with self._lock:
            return self._waiting[:limit]

    def judge(self, probes: Sequence[Probe], answer: Answer) -> None:
        """Takes an answer in.

        Args:
            probes: Those that were asked for.
            answer: Has the control row's logit first, and then those of the probes.
        """
        control, *logits = answer.logits
        for probe, logit in zip(probes, logits):
            if answer.position.get(probe.partition, 0) <= probe.offset:
                continue
            if probe.passed_at is None:
                probe.passed_at = answer.received_at
            moved = logit - control if probe.is_click else control - logit
            if moved > LOGIT_MARGIN:
                probe.learnt_at, probe.version = answer.received_at, answer.version
        with self._lock:
            self._waiting = [probe for probe in self._waiting if probe.learnt_at is None]
