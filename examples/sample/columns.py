"""What each column is like: its distribution, its missing values, its effect on clicks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DenseColumn:
    """A dense column: a log-normal count.

    Attributes:
        median: Its median.
        sigma: Standard deviation of its logarithm.
        missing: Share of missing values.
        effect: Logits for a z-score of 1, and the curve: "line" or "bend" (high at both ends).
        shift: Added to every value.
    """

    median: float
    sigma: float
    missing: float
    effect: float = 0.0
    curve: str = "line"
    shift: int = 0


@dataclass(frozen=True)
class CategoricalColumn:
    """A categorical column.

    Attributes:
        size: Values alive at any time.
        missing: Share of missing values.
        effect: Standard deviation of its values' hidden weights, in logits.
        drifts: Whether those weights change.
        renews: Whether its values are replaced by new ones.
    """

    size: int
    missing: float
    effect: float
    drifts: bool = False
    renews: bool = False


DENSE = (
    DenseColumn(1.5, 1.3, 0.45, 0.1),
    DenseColumn(6, 1.6, 0.0, shift=-3),
    DenseColumn(6, 1.4, 0.21),
    DenseColumn(5, 0.7, 0.22, 0.15, "bend"),
    DenseColumn(2500, 2.0, 0.03),
    DenseColumn(32, 1.6, 0.22, -0.1),
    DenseColumn(4, 0.8, 0.04, 0.18),
    DenseColumn(9, 0.7, 0.0, -0.15, "bend"),
    DenseColumn(38, 1.4, 0.04),
    DenseColumn(1.2, 0.5, 0.45, 0.15),
    DenseColumn(2.5, 0.7, 0.04, 0.18),
    DenseColumn(0.4, 1.0, 0.76),
    DenseColumn(5, 0.8, 0.22, -0.18),
)
CATEGORICAL = (
    CategoricalColumn(1460, 0.0, 0.3),
    CategoricalColumn(583, 0.0, 0.35),
    CategoricalColumn(200_000, 0.034, 0.08, renews=True),
    CategoricalColumn(150_000, 0.034, 0.08, renews=True),
    CategoricalColumn(305, 0.0, 0.2),
    CategoricalColumn(24, 0.12, 0.25),
    CategoricalColumn(12_517, 0.0, 0.08, renews=True),
    CategoricalColumn(633, 0.0, 0.25, drifts=True),
    CategoricalColumn(3, 0.0, 0.2),
    CategoricalColumn(93_145, 0.0, 0.08, renews=True),
    CategoricalColumn(5683, 0.0, 0.08, renews=True),
    CategoricalColumn(180_000, 0.034, 0.08, renews=True),
    CategoricalColumn(3194, 0.0, 0.08, renews=True),
    CategoricalColumn(27, 0.0, 0.35),
    CategoricalColumn(14_992, 0.0, 0.08, renews=True),
    CategoricalColumn(160_000, 0.034, 0.08, renews=True),
    CategoricalColumn(10, 0.0, 0.35, drifts=True),
    CategoricalColumn(5652, 0.0, 0.25, drifts=True, renews=True),
    CategoricalColumn(2173, 0.44, 0.2),
    CategoricalColumn(4, 0.44, 0.2),
    CategoricalColumn(170_000, 0.034, 0.08, renews=True),
    CategoricalColumn(18, 0.76, 0.3),
    CategoricalColumn(15, 0.0, 0.3),
    CategoricalColumn(100_000, 0.034, 0.08, renews=True),
    CategoricalColumn(105, 0.44, 0.3),
    CategoricalColumn(60_000, 0.44, 0.08, renews=True),
)
# (one column, another, logits of the interaction's standard deviation)
INTERACTIONS = (
    ("C6", "C14", 0.45),
    ("C9", "C17", 0.45),
    ("C14", "C23", 0.45),
    ("C2", "C20", 0.4),
    ("C5", "C9", 0.4),
    ("C17", "C23", 0.4),
)
# (one column, another, logits of the standard deviation of their pairs' weights); none may renew.
PAIRS = (
    ("C6", "C23", 0.3),
    ("C14", "C22", 0.3),
    ("C20", "C25", 0.3),
    ("C1", "C9", 0.25),
    ("C2", "C17", 0.25),
    ("C14", "I7", 0.3),
    ("C6", "I11", 0.3),
    ("I4", "I13", 0.3),
)
ZIPF_EXPONENT = 1.05
