"""The gate: a version that would make scores worse is not published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from src.process.arrays import Array
from src.publishing.version_format import Contents, Manifest, is_finite
from src.watching.metrics import totals_of

LEAST_CALIBRATION, MOST_CALIBRATION = 0.5, 2.0
STANDARD_ERRORS = 4.0
DEVIATION_ROWS = 10_000
"""Enough to know how much the cross-entropy of rows differs."""
CAUSES = ("weights", "calibration", "log_loss")


@dataclass(frozen=True)
class Quality:
    """How good the newest rows' scores were, taken before these rows were learnt.

    Attributes:
        rows: How many rows.
        auc: Area under the ROC curve; None without clicks or without others.
        log_loss: Mean cross-entropy in nats; None without rows.
        calibration: Predicted clicks over clicks; None without clicks.
        deviation: Standard deviation of a row's cross-entropy.
    """

    rows: int
    auc: float | None
    log_loss: float | None
    calibration: float | None
    deviation: float

    @staticmethod
    def of(logit: Array, is_click: Array) -> Quality:
        """Of float32[rows] and bool[rows]."""
        scores = totals_of(logit, is_click).scores()
        newest = slice(-DEVIATION_ROWS, None)
        x = np.where(is_click, -logit, logit)[newest].astype(np.float64)
        deviation = float(np.logaddexp(0.0, x).std()) if len(x) else 0.0
        return Quality(scores.rows, scores.auc, scores.log_loss, scores.calibration, deviation)

    @staticmethod
    def of_manifest(manifest: Manifest) -> Quality:
        """What a version was published with."""
        found = manifest.progressive
        return Quality(
            int(found["rows"] or 0), found["auc"], found["log_loss"], found["calibration"], 0.0
        )

    def to_json(self) -> Mapping[str, float | None]:
        """What a manifest holds of it."""
        return {
            "rows": self.rows,
            "auc": self.auc,
            "log_loss": self.log_loss,
            "calibration": self.calibration,
        }


@dataclass(frozen=True)
class Refusal:
    """Why a version is not published: the cause as one of ``CAUSES``, and one line."""

    cause: str
    text: str


class Gate:
    """Refuses what must not be served.

    Args:
        tolerance: By how much the log loss may be worse than that of the last version published.
        published: Quality of the last version published; None where there is none.
    """

    def __init__(self, tolerance: float, published: Quality | None) -> None:
        self._tolerance = tolerance
        self._published = published

    def passed(self, quality: Quality) -> None:
        """A version of this quality is published."""
        self._published = quality

    def refusal(self, contents: Contents, quality: Quality) -> Refusal | None:
        """Why a version is not published; None where it is."""
        for name, array in contents.numbers():
            if not is_finite(array):
                return Refusal("weights", f"{name} is not finite")
        calibration = quality.calibration
        if calibration is not None and not (LEAST_CALIBRATION <= calibration <= MOST_CALIBRATION):
            return Refusal(
                "calibration",
                f"{calibration:.3f} clicks predicted per click of the newest {quality.rows} rows, "
                f"not {LEAST_CALIBRATION:g} to {MOST_CALIBRATION:g}",
            )
        return self._worse_log_loss(quality)

    def _worse_log_loss(self, quality: Quality) -> Refusal | None:
        before = self._published
        if before is None or before.log_loss is None or quality.log_loss is None:
            return None
        allowed = before.log_loss + self._tolerance + self._chance(before, quality)
        if quality.log_loss <= allowed:
            return None
        return Refusal(
            "log_loss",
            f"log loss {quality.log_loss:.4f} of the newest {quality.rows} rows is worse than "
            f"the {before.log_loss:.4f} of the last version by more than {self._tolerance:g}",
        )

    @staticmethod
    def _chance(before: Quality, now: Quality) -> float:
        """How much of a difference means nothing, as the newest rows were few before.

        The rows from before are still among those of now, so there is nothing to allow for once
        their number does not grow any more.
        """
        if not before.rows or now.rows <= before.rows:
            return 0.0
        share = 1 / before.rows - 1 / now.rows
        return STANDARD_ERRORS * now.deviation * math.sqrt(share)
