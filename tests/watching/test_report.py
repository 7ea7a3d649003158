"""Reports as JSON lines."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from src.watching.metrics import ProgressiveMetrics
from src.watching.reliability import reliability
from src.watching.report import Report


def report_of(metrics: ProgressiveMetrics, **changes: Any) -> Report:
    scores = metrics.life().scores()
    fields: dict[str, Any] = {
        "time": math.pi,
        "session": 3,
        "step": 3,
        "rows_per_second": math.pi,
        "step_seconds": math.pi,
        "wait_seconds": math.pi,
        "wide_loss": math.pi,
        "deep_loss": math.pi,
        "life": scores,
        "window": scores,
        "since_start": scores,
        "reliability": reliability(metrics.window()),
        "oov_rate": 0.1,
        "oov_rate_by_column": [0.1],
        "lag_rows": None,
        "lag_rows_by_partition": None,
        "lag_seconds": 1.0,
    }
    return Report(**{**fields, **changes})


def test_every_field_of_a_report_reaches_the_json_line() -> None:
    report = report_of(ProgressiveMetrics())
    assert {*report.to_json()} == {*vars(report), "rows"}


def test_json_line_holds_short_numbers_in_nested_objects_too() -> None:
    metrics = ProgressiveMetrics()
    metrics.add(np.array([0.123456789, -1.0]), np.array([1, 0]))
    line = json.loads(json.dumps(report_of(metrics, lag_rows_by_partition={0: 7}).to_json()))
    assert line["wide_loss"] == 3.141593
    assert line["lag_rows_by_partition"] == {"0": 7}
    assert all(len(str(score)) <= 12 for score in line["window"].values())
    assert [group["rows"] for group in line["reliability"]] == [1, 1]
    assert all(len(str(number)) <= 9 for group in line["reliability"] for number in group.values())


def test_what_json_has_no_number_for_is_null() -> None:
    report = report_of(ProgressiveMetrics(), wide_loss=math.nan, deep_loss=-math.inf)
    line = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert line["wide_loss"] is line["deep_loss"] is line["window"]["auc"] is None


def test_an_age_that_is_not_known_is_null_and_a_question_mark() -> None:
    report = report_of(ProgressiveMetrics(), lag_seconds=None)
    assert json.loads(json.dumps(report.to_json()))["lag_seconds"] is None
    assert report.line().endswith("lag ? and ?")
