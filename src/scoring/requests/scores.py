"""The scores of a request's rows, and which version they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.process.arrays import Array
from src.publishing.version_format import Manifest
from src.rows.criteo import ROW, ParsedRows
from src.scoring.forward import sigmoid
from src.scoring.model import ServedModel


@dataclass(frozen=True, eq=False)
class Scores:
    """What a version says of rows.

    Attributes:
        manifest: The version.
        logit: float32[rows], NaN where a row is bad.
        probability: float32[rows], of a click; NaN where a row is bad.
        errors: By place of a bad row, its column and what is wrong.
    """

    manifest: Manifest
    logit: Array
    probability: Array
    errors: Mapping[int, str]

    def reasons(self) -> Sequence[str]:
        """What is wrong with each row; empty for a good one."""
        return [self.errors.get(place, "") for place in range(len(self.logit))]


def score(model: ServedModel, rows: ParsedRows) -> Scores:
    """Scores the good rows and names the bad ones."""
    count = len(rows.index) + len(rows.bad)
    logit = np.full(count, np.nan, dtype=np.float32)
    errors = {row.index: f"{row.column}: {row.reason}" for row in rows.bad}
    logit[rows.index] = found = model.logit(rows)
    for place in rows.index[~np.isfinite(found)].tolist():
        logit[place] = np.nan
        errors[place] = f"{ROW}: its numbers are too large to be scored"
    with np.errstate(invalid="ignore"):
        return Scores(model.manifest, logit, sigmoid(logit), errors)


def age_ms(manifest: Manifest, now: float) -> int | None:
    """The age of the newest row that a version has learnt.

    Args:
        manifest: The version.
        now: Seconds since 1970.

    Returns:
        Milliseconds; None where the rows' times are not known.
    """
    if manifest.trained_until_ms <= 0:
        return None
    return max(0, round(now * 1000) - manifest.trained_until_ms)


def position_of(manifest: Manifest) -> dict[str, int]:
    """The next offset to learn, by partition."""
    return {str(part): offset for part, offset in sorted(manifest.position.offsets.items())}
