"""A reliability table: predicted probability and click rate of rows with similar scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from src.watching.metrics import Totals, middle_of

GROUPS = 10


@dataclass(frozen=True)
class Group:
    """Rows whose scores lie side by side.

    Attributes:
        predicted: Their mean predicted probability, within the width of a bin of the logit.
        click_rate: Their clicks over their rows. Rows of one bin are not told apart: a bin that
            belongs to two groups shares its clicks between them by its rows.
        rows: How many they are.
    """

    predicted: float
    click_rate: float
    rows: int

    def to_json(self) -> dict[str, float]:
        """The group as a JSON object."""
        return asdict(self)


def reliability(totals: Totals) -> list[Group]:
    """Cuts rows into ten groups by score, as equal in size as whole rows allow.

    Returns:
        The groups, lowest scores first; fewer than ten rows are one group each.
    """
    place = np.flatnonzero(totals.counts.any(axis=0))
    counts = totals.counts[:, place]
    rows = counts.sum(axis=0)
    probability = 1.0 / (1.0 + np.exp(-middle_of(place)))
    up_to = np.cumsum(np.pad([rows, rows * probability, counts[1]], ((0, 0), (1, 0))), axis=1)
    cuts = np.unique(int(up_to[0, -1]) * np.arange(GROUPS + 1) // GROUPS)
    sizes = np.diff(cuts)
    # The sums grow evenly with the rows within a bin, so a cut bin is shared by rows.
    predicted, clicks = (np.diff(np.interp(cuts, up_to[0], sums)) / sizes for sums in up_to[1:])
    return [Group(*group) for group in zip(predicted.tolist(), clicks.tolist(), sizes.tolist())]
