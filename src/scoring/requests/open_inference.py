"""The Open Inference Protocol, version 2: requests become rows, and scores become answers.

A bad row has no score: null in JSON, NaN in binary form. What is wrong with it stands in one more
output, ``error``, which is there if a row is bad or a client asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from src.publishing.version_format import Manifest
from src.rows.criteo import ROW, ParsedRows
from src.rows.short_repr import short_repr
from src.scoring.requests.errors import RequestError
from src.scoring.requests.rows import rows_of_columns, rows_of_row_column
from src.scoring.requests.scores import Scores, age_ms, position_of
from src.scoring.requests.tensors import (
    BINARY_SIZE,
    DATATYPES,
    binary_floats,
    binary_strings,
    columns_of,
)

PLATFORM = "mindspore_wide_deep"
OUTPUTS = {"probability": "FP32", "logit": "FP32", "error": "BYTES"}
_USUAL = ("probability", "logit")
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True)
class InferRequest:
    """Rows to score, and the form of the answer.

    Attributes:
        rows: The rows, and the bad ones by name.
        request_id: Comes back in the answer; None where there is none.
        outputs: (name, whether in binary form) of each output; None for the usual ones.
        binary: Whether the usual ones are wanted in binary form.
    """

    rows: ParsedRows
    request_id: str | None
    outputs: Sequence[tuple[str, bool]] | None
    binary: bool


def parse_request(body: bytes, json_length: int | None, max_rows: int) -> InferRequest:
    """What a client wants.

    Args:
        body: The JSON text, and tensors in binary form after it.
        json_length: Bytes of the JSON text; None where there is nothing after it.
        max_rows: The most rows.

    Raises:
        RequestError: It is no request of this protocol.
    """
    text, binary = (body, b"") if json_length is None else (body[:json_length], body[json_length:])
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"not JSON: {error}") from None
    if not isinstance(request, dict):
        raise RequestError(400, "not a JSON object")
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError(400, "id must be a string")
    usual_is_binary = _flag(request, "binary_data_output", False)
    outputs = _outputs(request.get("outputs"), usual_is_binary)
    columns, count = columns_of(request.get("inputs"), binary, max_rows)
    if ROW not in columns:
        rows = rows_of_columns(columns, count)
    elif len(columns) == 1:
        rows = rows_of_row_column(columns[ROW])
    else:
        raise RequestError(400, f"input {ROW} is a whole row, and needs no other input")
    return InferRequest(rows, request_id, outputs, usual_is_binary)


def _flag(fields: Mapping[str, Any], name: str, otherwise: bool) -> bool:
    """A parameter that is true or false."""
    parameters = fields.get("parameters")
    if parameters is None:
        return otherwise
    if not isinstance(parameters, dict):
        raise RequestError(400, "parameters must be an object")
    value = parameters.get(name, otherwise)
    if not isinstance(value, bool):
        raise RequestError(400, f"{name} must be true or false")
    return value


def _outputs(wanted: Any, usual_is_binary: bool) -> list[tuple[str, bool]] | None:
    if wanted is None or wanted == []:
        return None
    if not isinstance(wanted, list):
        raise RequestError(400, "outputs must be a list")
    outputs: list[tuple[str, bool]] = []
    for output in wanted:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            known = ", ".join(OUTPUTS)
            raise RequestError(400, f"output {short_repr(name)} is none of {known}")
        if name in dict(outputs):
            raise RequestError(400, f"output {name} is there twice")
        outputs.append((name, _flag(output, "binary_data", usual_is_binary)))
    return outputs


def answer(
    request: InferRequest, scores: Scores, model_name: str, now: float
) -> tuple[bytes, int | None]:
    """(body, bytes of its JSON text or None where there is nothing after it).

    Args:
        request: What was asked.
        scores: Of its rows.
        model_name: Name of the model.
        now: Seconds since 1970.
    """
    outputs = request.outputs
    if outputs is None:
        outputs = [(name, request.binary) for name in _USUAL]
    if scores.errors and "error" not in dict(outputs):
        outputs = [*outputs, ("error", request.binary)]
    tensors: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for name, is_binary in outputs:
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": OUTPUTS[name],
            "shape": [len(scores.logit)],
        }
        values: Any = scores.reasons() if name == "error" else getattr(scores, name)
        if is_binary:
            pieces.append(binary_strings(values) if name == "error" else binary_floats(values))
            tensor["parameters"] = {BINARY_SIZE: len(pieces[-1])}
        else:
            tensor["data"] = values
        tensors.append(tensor)
    fields: dict[str, Any] = {
        "model_name": model_name,
        "model_version": str(scores.manifest.version),
        "parameters": {**identity(scores.manifest, now), "bad_rows": len(scores.errors)},
        "outputs": tensors,
    }
    if request.request_id is not None:
        fields["id"] = request.request_id
    text = orjson.dumps(fields, option=_OPTIONS)
    return (text + b"".join(pieces), len(text)) if pieces else (text, None)


def identity(manifest: Manifest, now: float) -> dict[str, Any]:
    """Which version it is, as parameters: the protocol has only strings, numbers and booleans."""
    fields: dict[str, Any] = {
        "version": manifest.version,
        "topic": manifest.topic,
        "position": json.dumps(position_of(manifest)),
    }
    age = age_ms(manifest, now)
    if age is not None:
        fields.update(trained_until_ms=manifest.trained_until_ms, age_ms=age)
    return fields


def server_metadata(version: str) -> dict[str, Any]:
    """Name and abilities of the server."""
    return {
        "name": "online-learning",
        "version": version,
        "extensions": ["binary_tensor_data"],
    }


def model_metadata(manifest: Manifest, model_name: str, now: float) -> dict[str, Any]:
    """Inputs and outputs of the model; all inputs but one of them may be left out."""
    return {
        "name": model_name,
        "versions": [str(manifest.version)],
        "platform": PLATFORM,
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [-1]}
            for name, datatype in DATATYPES.items()
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1]}
            for name, datatype in OUTPUTS.items()
        ],
        "parameters": identity(manifest, now),
    }
