"""What each stage has to reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A bound that a result has to reach.

    Attributes:
        result: Name of the result.
        measure: ``ratio``, ``ours``, ``of_limit``, ``peer_ratio``, or one of the result's other
            measures.
        at_least: The least that is enough; None where only ``at_most`` counts.
        at_most: The most that is enough; None where only ``at_least`` counts.
    """

    result: str
    measure: str
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float | None) -> bool:
        """Whether a number reaches the bound; a missing number does not."""
        if value is None:
            return False
        enough = self.at_least is None or value >= self.at_least
        return enough and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bounds = ((">=", self.at_least), ("<=", self.at_most))
        shown = [f"{sign} {bound:,.5g}" for sign, bound in bounds if bound is not None]
        return f"{self.measure} {' and '.join(shown)}"


# A ratio stands here only where the limit itself reaches it. Elsewhere a share of the limit does.
# Times and rates without a peer are for the machine that benchmarks/README.md describes.
TARGETS = (
    Target("produce", "ratio", 2.5),
    Target("features_1000", "ratio", 60),
    Target("features_1000", "of_limit", 0.7),
    Target("features_10000", "of_limit", 0.7),
    Target("consume", "ratio", 30),
    Target("consume", "of_limit", 0.7),
    Target("channel", "ratio", 4),
    Target("channel", "of_limit", 0.65),
    Target("feed_100", "ratio", 15),
    Target("feed_100", "of_limit", 0.65),
    Target("feed_1000", "of_limit", 0.65),
    Target("train_step", "ratio", 2.5),
    Target("train_step", "of_limit", 0.85),
    Target("train_step", "peer_ratio", 3),
    Target("train_step", "ours", at_most=55),
    Target("train_step_sparse", "ratio", 6),
    Target("train_step_sparse", "of_limit", 0.85),
    Target("train_step_sparse", "peer_ratio", 1),
    # Time at a vocabulary of 200,000 / time at 2,000,000: at most 1.2 times as long.
    Target("train_step_sparse", "vocabulary_ratio", 1 / 1.2),
    Target("train_step_adaptive", "peer_ratio", 1),
    Target("train_step_adaptive", "ours", at_most=6.5),
    Target("watching", "ratio", 0.98),
    Target("end_to_end", "ratio", 2.2),
    Target("end_to_end", "busy", 0.95),
    Target("end_to_end", "checkpoint_loss", at_most=0.01),
    Target("end_to_end_adaptive", "ours", 10_000),
    Target("start", "ours", at_most=3.5),
)
