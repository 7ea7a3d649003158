"""TensorFlow Serving's REST dialect: requests become rows, and scores become answers.

A bad row's prediction is an object with ``error`` alone. In columns it has null scores, and there
is one more column, ``error``. Every answer says which version it is of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from src.publishing.version_format import Manifest
from src.rows.criteo import CATEGORICAL_COLUMNS, COLUMNS, DENSE_COLUMNS, ROW, ParsedRows
from src.rows.short_repr import short_repr
from src.scoring.requests.errors import RequestError
from src.scoring.requests.rows import rows_of_columns, rows_of_instances, rows_of_row_column
from src.scoring.requests.scores import Scores, age_ms, position_of
from src.scoring.requests.tensors import flat

SIGNATURE = "serving_default"
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True)
class PredictRequest:
    """Rows to score, and the form of the answer.

    Attributes:
        rows: The rows, and the bad ones by name.
        in_columns: Whether the answer has a list of each output, not an object of each row.
    """

    rows: ParsedRows
    in_columns: bool


def parse_request(body: bytes, max_rows: int) -> PredictRequest:
    """What a client wants.

    Raises:
        RequestError: It is no request of this dialect.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"not JSON: {error}") from None
    if not isinstance(request, dict):
        raise RequestError(400, "not a JSON object")
    signature = request.get("signature_name") or SIGNATURE
    if signature != SIGNATURE:
        raise RequestError(400, f"signature {short_repr(signature)} is not {SIGNATURE}")
    if ("instances" in request) == ("inputs" in request):
        raise RequestError(400, "either instances or inputs must be there")
    if "inputs" in request:
        return PredictRequest(_rows_of_inputs(request["inputs"], max_rows), in_columns=True)
    instances = request["instances"]
    if not isinstance(instances, list):
        raise RequestError(400, "instances must be a list")
    _check_count(len(instances), max_rows)
    return PredictRequest(rows_of_instances(instances), in_columns=False)


def _rows_of_inputs(inputs: Any, max_rows: int) -> ParsedRows:
    if isinstance(inputs, dict) and inputs.keys() == {ROW}:
        inputs = inputs[ROW]
    if isinstance(inputs, list):
        lines = flat(inputs)
        assert lines is not None
        _check_count(len(lines), max_rows)
        return rows_of_row_column(lines)
    if not isinstance(inputs, dict) or not inputs:
        raise RequestError(400, "inputs must be an object of columns, or a list of lines")
    columns = {}
    count = -1
    for name, data in inputs.items():
        if name not in COLUMNS:
            raise RequestError(400, f"input {short_repr(name)} is none of I1..I13, C1..C26, {ROW}")
        column = flat(data)
        if column is None:
            raise RequestError(400, f"input {name} must be a list")
        if count not in (-1, len(column)):
            raise RequestError(400, f"input {name} has {len(column)} rows, others have {count}")
        count = len(column)
        columns[name] = column
    _check_count(count, max_rows)
    return rows_of_columns(columns, count)


def _check_count(rows: int, max_rows: int) -> None:
    if rows > max_rows:
        raise RequestError(413, f"{rows} rows, at most {max_rows} are taken")


def answer(request: PredictRequest, scores: Scores, now: float) -> bytes:
    """The body of the answer.

    Args:
        request: What was asked.
        scores: Of its rows.
        now: Seconds since 1970.
    """
    fields: dict[str, Any]
    if request.in_columns:
        outputs = {"probability": scores.probability, "logit": scores.logit}
        fields = {"outputs": {**outputs, "error": scores.reasons()} if scores.errors else outputs}
    else:
        predictions: list[dict[str, Any]] = [
            {"probability": probability, "logit": logit}
            for probability, logit in zip(scores.probability, scores.logit)
        ]
        for place, reason in scores.errors.items():
            predictions[place] = {"error": reason}
        fields = {"predictions": predictions}
    return orjson.dumps({**fields, **identity(scores.manifest, now)}, option=_OPTIONS)


def identity(manifest: Manifest, now: float) -> dict[str, Any]:
    """Which version it is."""
    age = age_ms(manifest, now)
    return {
        "version": manifest.version,
        "topic": manifest.topic,
        "position": position_of(manifest),
        "trained_until_ms": None if age is None else manifest.trained_until_ms,
        "age_ms": age,
    }


def model_status(manifest: Manifest, now: float) -> dict[str, Any]:
    """The version that serves."""
    status = {
        "version": str(manifest.version),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    return {"model_version_status": [status], **identity(manifest, now)}


def model_metadata(manifest: Manifest, model_name: str, now: float) -> dict[str, Any]:
    """Inputs and outputs, as a signature."""

    def tensor(dtype: str, name: str) -> dict[str, Any]:
        unknown = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
        return {"dtype": dtype, "tensor_shape": unknown, "name": name}

    inputs = {name: tensor("DT_INT64", name) for name in DENSE_COLUMNS}
    inputs.update({name: tensor("DT_STRING", name) for name in (*CATEGORICAL_COLUMNS, ROW)})
    outputs = {name: tensor("DT_FLOAT", name) for name in ("probability", "logit")}
    signature = {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}
    return {
        "model_spec": {
            "name": model_name,
            "signature_name": "",
            "version": str(manifest.version),
        },
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
        **identity(manifest, now),
    }
