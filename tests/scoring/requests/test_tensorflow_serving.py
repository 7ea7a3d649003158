from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from src.scoring.requests import tensorflow_serving as dialect
from src.scoring.requests.errors import RequestError
from src.scoring.requests.rows import rows_of_instances
from src.scoring.requests.scores import score
from tests.scoring.made import TRAINED_UNTIL_MS
from tests.scoring.requests.served import BAD, NOW, OBJECTS, line, served

IDENTITY = {
    "version": 10,
    "topic": "clicks",
    "position": {"0": 100, "1": 7},
    "trained_until_ms": TRAINED_UNTIL_MS + 10,
    "age_ms": 4990,
}


def predict(max_rows: int = 100, **request: Any) -> dict[str, Any]:
    parsed = dialect.parse_request(json.dumps(request).encode(), max_rows)
    found = json.loads(dialect.answer(parsed, score(served(), parsed.rows), NOW))
    assert isinstance(found, dict)
    return found


def wanted() -> list[float]:
    return [float(x) for x in served().logit(rows_of_instances(OBJECTS))]


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in ("I1", "I2", "C1", "C3", "C26")}


@pytest.mark.parametrize(
    "instances",
    [OBJECTS, [line(row) for row in OBJECTS], [line(row).split("\t") for row in OBJECTS]],
    ids=["objects", "lines", "lists"],
)
def test_instances_get_one_prediction_each(instances: list[Any]) -> None:
    found = predict(instances=instances)
    assert [row["logit"] for row in found["predictions"]] == pytest.approx(wanted(), abs=1e-6)
    for row in found["predictions"]:
        assert row["probability"] == pytest.approx(1 / (1 + np.exp(-row["logit"])), abs=1e-6)
    assert {name: found[name] for name in IDENTITY} == IDENTITY


@pytest.mark.parametrize(
    "inputs",
    [
        columns(OBJECTS),
        {name: [[value] for value in column] for name, column in columns(OBJECTS).items()},
        {"row": [line(row) for row in OBJECTS]},
        [line(row) for row in OBJECTS],
    ],
    ids=["columns", "columns of shape [n, 1]", "row", "lines alone"],
)
def test_inputs_get_columns(inputs: Any) -> None:
    found = predict(inputs=inputs, signature_name="serving_default")
    assert found["outputs"]["logit"] == pytest.approx(wanted(), abs=1e-6)
    assert sorted(found["outputs"]) == ["logit", "probability"]
    assert {name: found[name] for name in IDENTITY} == IDENTITY


def test_a_bad_row_is_refused_alone() -> None:
    good, bad, last = predict(instances=[OBJECTS[0], BAD, OBJECTS[2]])["predictions"]
    assert bad == {"error": "I1: not a 64-bit integer: b'x'"}
    assert [good["logit"], last["logit"]] == pytest.approx([wanted()[0], wanted()[2]], abs=1e-6)
    outputs = predict(inputs=columns([OBJECTS[0], BAD]))["outputs"]
    assert outputs["error"] == ["", "I1: not a 64-bit integer: b'x'"]
    assert outputs["logit"] == [pytest.approx(wanted()[0], abs=1e-6), None]
    assert outputs["probability"][1] is None


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({}, 400, "either instances or inputs"),
        ({"instances": [], "inputs": {}}, 400, "either instances or inputs"),
        ({"instances": {}}, 400, "instances must be a list"),
        ({"inputs": {}}, 400, "must be an object of columns"),
        ({"inputs": 5}, 400, "must be an object of columns"),
        ({"inputs": {"I14": [1]}}, 400, "'I14' is none of"),
        ({"inputs": {"I1": 1}}, 400, "I1 must be a list"),
        ({"inputs": {"I1": [1], "I2": [1, 2]}}, 400, "I2 has 2 rows, others have 1"),
        ({"instances": [{}] * 6}, 413, "6 rows, at most 5"),
        ({"inputs": {"I1": [1] * 6}}, 413, "6 rows, at most 5"),
        ({"inputs": ["x"] * 6}, 413, "6 rows, at most 5"),
        ({"instances": [{}], "signature_name": "other"}, 400, "'other' is not serving_default"),
        ({"instances": [{}], "signature_name": 5}, 400, "signature 5"),
        (["instances"], 400, "not a JSON object"),
    ],
)
def test_what_is_no_request_is_refused_with_a_reason(
    request_: Any, status: int, reason: str
) -> None:
    with pytest.raises(RequestError, match=reason) as raised:
        dialect.parse_request(json.dumps(request_).encode(), 5)
    assert raised.value.status == status


def test_what_is_not_json_is_refused() -> None:
    for body in (b"", b"{", b"\xff", b'{"instances": [NaN]}', b"[" * 100_000):
        with pytest.raises(RequestError, match="not JSON"):
            dialect.parse_request(body, 5)


def test_no_instances_get_no_predictions() -> None:
    assert predict(instances=[])["predictions"] == []


def test_a_number_too_large_to_be_scored_is_a_bad_row() -> None:
    huge = [{"I1": 2**63 - 1, "I2": -(2**63), "I3": 2**63 - 1}] * 2
    for prediction in predict(instances=[*huge, OBJECTS[0]])["predictions"]:
        assert "error" in prediction or np.isfinite(prediction["logit"])


def test_status_and_metadata_name_the_version() -> None:
    manifest = served().manifest
    status = dialect.model_status(manifest, NOW)
    assert status["model_version_status"][0]["version"] == "10"
    assert status["age_ms"] == 4990
    described = dialect.model_metadata(manifest, "m", NOW)
    signature = described["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert len(signature["inputs"]) == 40
    assert described["model_spec"]["version"] == "10"
