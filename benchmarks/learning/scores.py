"""Scores of the ways, and the targets that `adaptive` misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from src.process.arrays import Array

LEAST_SPEED = 0.6
PEERS = {
    "vowpal_wabbit": "Vowpal Wabbit",
    "vowpal_wabbit_pairs": "Vowpal Wabbit with pairs",
}
"""The ways of another learner, and what they are called."""
_WAY_WIDTH = max(map(len, PEERS)) + 1


@dataclass(frozen=True)
class Learnt:
    """The scores of a way.

    Attributes:
        way: Its name.
        auc: AUC of all rows of the stream.
        log_loss: Log loss of the same rows.
        last_auc: AUC of the second half of the stream.
        last_log_loss: Log loss of the second half.
        rows_per_second: Rows per second on the stream.
    """

    way: str
    auc: float
    log_loss: float
    last_auc: float
    last_log_loss: float
    rows_per_second: float

    def __str__(self) -> str:
        return (
            f"{self.way:<{_WAY_WIDTH}}{self.auc:>8.4f}{self.log_loss:>10.4f}{self.last_auc:>11.4f}"
            f"{self.last_log_loss:>10.4f}{self.rows_per_second:>10.0f}"
        )


HEADER = f"{'way':<{_WAY_WIDTH}}{'AUC':>8}{'log loss':>10}{'last half:':>11}{'':>10}{'rows/s':>10}"


def judged(way: str, labels: Array, logits: Array, seconds: float) -> Learnt:
    """The scores of a way.

    Args:
        way: Its name.
        labels: float[rows].
        logits: float[rows], each from before its row was trained on.
        seconds: The time it took.
    """
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    half = len(labels) // 2
    return Learnt(
        way,
        float(roc_auc_score(labels, logits)),
        float(log_loss(labels, probabilities)),
        float(roc_auc_score(labels[half:], logits[half:])),
        float(log_loss(labels[half:], probabilities[half:])),
        len(labels) / seconds,
    )


def shortcomings(results: Sequence[Learnt]) -> list[str]:
    """The targets that `adaptive` misses; empty where there is nothing to compare it with."""
    by_way = {result.way: result for result in results}
    ours, sparse = (by_way.get(way) for way in ("adaptive", "sparse"))
    if ours is None:
        return []
    phrases = []
    for way, name in PEERS.items():
        peer = by_way.get(way)
        if peer and not (ours.auc > peer.auc and ours.log_loss < peer.log_loss):
            phrases.append(f"adaptive does not beat {name} on AUC and log loss")
    if sparse and ours.rows_per_second < LEAST_SPEED * sparse.rows_per_second:
        phrases.append(f"adaptive has less than {LEAST_SPEED:.0%} of the rows/s of sparse")
    return phrases
