"""A report: what a trainer publishes about its learning every so many steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from src.watching.metrics import Scores
from src.watching.reliability import Group


@dataclass(frozen=True)
class Report:
    """The state of learning at one moment.

    Attributes:
        time: When, seconds since 1970.
        session: Of this trainer: a new one after each restart.
        step: Steps since the very first start.
        rows_per_second: Since the report before, pauses for checkpoints included; None where
            there was only one step.
        step_seconds: Mean time of a step since the report before, without waiting for its batch;
            the first step of a trainer, which compiles, is left out here and in the next.
        wait_seconds: Mean time that a step's batch was waited for.
        wide_loss: Mean wide_loss of the steps since the report before.
        deep_loss: Mean deep_loss of those steps.
        life: Scores of all rows since the model's first step.
        window: Scores of the newest rows.
        since_start: Scores of the rows of this trainer.
        reliability: The newest rows in ten equal-sized groups by score, lowest scores first.
        oov_rate: Share of categorical fields out of vocabulary since the report before.
        oov_rate_by_column: The same for each of C1..C26.
        lag_rows: Rows of the topic not yet trained on; None where that is not known.
        lag_rows_by_partition: The same by partition.
        lag_seconds: Age of the newest row trained on; None where its producer gave no time.
    """

    time: float
    session: int
    step: int
    rows_per_second: float | None
    step_seconds: float | None
    wait_seconds: float | None
    wide_loss: float
    deep_loss: float
    life: Scores
    window: Scores
    since_start: Scores
    reliability: list[Group]
    oov_rate: float
    oov_rate_by_column: list[float]
    lag_rows: int | None
    lag_rows_by_partition: Mapping[int, int] | None
    lag_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON line; ``rows`` is that of the whole life."""
        fields = {
            **vars(self),
            "rows": self.life.rows,
            "life": self.life.to_json(),
            "window": self.window.to_json(),
            "since_start": self.since_start.to_json(),
            "reliability": [group.to_json() for group in self.reliability],
        }
        return {name: _rounded(value) for name, value in fields.items()}

    def line(self) -> str:
        """The log line; AUC, log loss and calibration are those of the newest rows."""
        speed = _shown(self.rows_per_second, "{:.0f} rows/s")
        lag, age = _shown(self.lag_rows, "{} rows"), _shown(self.lag_seconds, "{:.1f} s")
        return (
            f"step {self.step}: {self.life.rows} rows ({speed}), "
            f"AUC {_shown(self.window.auc, '{:.4f}')}, "
            f"log loss {_shown(self.window.log_loss, '{:.4f}')}, "
            f"calibration {_shown(self.window.calibration, '{:.3f}')}, "
            f"OOV {100 * self.oov_rate:.1f} %, lag {lag} and {age}"
        )


def mean(total: float, number: int) -> float | None:
    """The mean of some numbers with this sum; None where there are none."""
    return total / number if number else None


def _shown(value: float | None, form: str) -> str:
    return "?" if value is None else form.format(value)


def _rounded(value: Any) -> Any:
    """Floats with as many digits as anyone will read; None for those that JSON lacks."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(f"{value:.7g}") if isinstance(value, float) and abs(value) < 1e6 else value


def all_rows_line(scores: Scores) -> str:
    """The last words of a trainer: how well it has scored all rows before it trained on them."""
    return (
        f"all {scores.rows} rows: AUC {_shown(scores.auc, '{:.4f}')}, "
        f"log loss {_shown(scores.log_loss, '{:.4f}')}, "
        f"calibration {_shown(scores.calibration, '{:.3f}')}"
    )
