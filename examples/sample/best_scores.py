"""The scores of the true probabilities. No learner can expect better ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.sample.blocks import Block

_BINS = 1 << 12  # of equal width; ties within a bin move the AUC by less than 0.00001


@dataclass(frozen=True)
class BestScores:
    """AUC and log loss of the probabilities that decided the labels.

    Attributes:
        auc: None unless there are clicks and non-clicks.
        log_loss: None without rows.
    """

    auc: float | None
    log_loss: float | None

    def __str__(self) -> str:
        auc, log_loss = (
            "none" if score is None else f"{score:.4f}" for score in (self.auc, self.log_loss)
        )
        return f"AUC {auc}, log loss {log_loss}"


class BestScoresCounter:
    """Counts blocks of rows; its memory does not grow with them."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, _BINS), dtype=np.int64)  # non-clicks and clicks
        self._loss = 0.0

    def add(self, block: Block) -> None:
        """Counts a block."""
        of_label = np.where(block.label, block.probability, 1 - block.probability)
        self._loss -= float(np.log(of_label).sum())
        places = (block.probability * _BINS).astype(np.int64) + _BINS * block.label
        self._counts += np.bincount(places, minlength=2 * _BINS).reshape(2, _BINS)

    def scores(self) -> BestScores:
        """The scores of all rows so far."""
        others, clicks = self._counts
        rows, pairs = int(self._counts.sum()), int(others.sum()) * int(clicks.sum())
        below = np.cumsum(others) - others / 2  # a tie counts half
        return BestScores(
            float(below @ clicks) / pairs if pairs else None,
            self._loss / rows if rows else None,
        )
