"""The loss lines that a trainer prints."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from src.process.output import say

MEAN_STEPS = 10  # one step's loss is noise
LOSS_LINE = re.compile(r"epoch: 1, step: \d+, wide_loss: (\S+), deep_loss: (\S+)")
RANK_PREFIX = re.compile(r"\[worker \d+\] ")


@dataclass
class LossLines:
    """The loss lines so far.

    Attributes:
        wide: wide_loss of each step, as printed.
        deep: deep_loss of each step, as printed.
        first_at: Time of the first line on a monotonic clock, seconds.
        last_at: Time of the last line.
    """

    wide: list[str] = field(default_factory=list)
    deep: list[str] = field(default_factory=list)
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def steps(self) -> int:
        """Number of loss lines."""
        return len(self.wide)

    def take(self, line: str) -> None:
        """Prints a line, and keeps its losses if it is a loss line."""
        say(line)
        match = LOSS_LINE.fullmatch(RANK_PREFIX.sub("", line))
        if match is None:
            return
        self.last_at = time.monotonic()
        self.first_at = self.first_at or self.last_at
        self.wide.append(match[1])
        self.deep.append(match[2])

    def rows_per_second(self, batch_size: int) -> float:
        """Rows trained per second, from the end of the first step to that of the last."""
        seconds = self.last_at - self.first_at
        return (self.steps - 1) * batch_size / seconds if seconds > 0 else 0.0

    def sum_up(self) -> str:
        """The first and last losses, and the means of some steps at both ends."""
        parts = []
        for name, losses in (("wide_loss", self.wide), ("deep_loss", self.deep)):
            ends = losses[:MEAN_STEPS], losses[-MEAN_STEPS:]
            before, after = (sum(map(float, end)) / len(end) for end in ends)
            parts.append(
                f"{name} {losses[0]} -> {losses[-1]} "
                f"(mean of {len(ends[0])}: {before:.3f} -> {after:.3f})"
            )
        return ", ".join(parts)
