"""Reports as JSON lines."""

from __future__ import annotations

import math

from src.watching.metrics import ProgressiveMetrics
from src.watching.report import Report


def test_every_field_of_a_report_reaches_the_json_line() -> None:
    scores = ProgressiveMetrics().life().scores()
    numbers = [math.pi] * 8
    report = Report(*numbers, scores, scores, scores, 0.1, [0.1], None, None, 1.0)  # type: ignore[arg-type, call-arg]
    assert {*report.to_json()} == {*vars(report), "rows"}
