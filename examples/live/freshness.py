"""How fresh the answers of a run were, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from examples.live.probes import Probe

PERCENTILES = {"p50_s": 50, "p95_s": 95, "p99_s": 99, "max_s": 100}


@dataclass(frozen=True)
class Freshness:
    """Times from a row's sending to the first answer that has learnt from it.

    Attributes:
        probes: How many probes were sent and taken by the broker.
        unlearnt: How many of them no answer has shown.
        seconds: Percentiles of the others, as in ``PERCENTILES``.
    """

    probes: int
    unlearnt: int
    seconds: Mapping[str, float]

    @property
    def described(self) -> str:
        """One line."""
        if not self.seconds:
            return f"freshness: none of {self.probes} probes was seen in an answer"
        times = self.seconds
        missed = f", {self.unlearnt} not seen" if self.unlearnt else ""
        return (
            f"freshness: p50 {times['p50_s']:.2f} s, p99 {times['p99_s']:.2f} s "
            f"over {self.probes - self.unlearnt} probes{missed}"
        )


def freshness_of(probes: Sequence[Probe]) -> Freshness:
    """The numbers of a run's probes."""
    taken = [probe for probe in probes if probe.partition is not None]
    times = [probe.learnt_at - probe.sent_at for probe in taken if probe.learnt_at is not None]
    seconds = (
        {name: float(np.percentile(times, rank)) for name, rank in PERCENTILES.items()}
        if times
        else {}
    )
    return Freshness(len(taken), len(taken) - len(times), seconds)
