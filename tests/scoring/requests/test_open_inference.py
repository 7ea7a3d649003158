from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from src.scoring.requests import open_inference as dialect
from src.scoring.requests.errors import RequestError
from src.scoring.requests.rows import MISSING_INTEGER, rows_of_instances
from src.scoring.requests.scores import score
from tests.scoring.made import TRAINED_UNTIL_MS
from tests.scoring.requests.served import BAD, NOW, OBJECTS, line, served


def tensor(name: str, data: Any, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    datatype = "INT64" if name.startswith("I") else "BYTES"
    return {
        "name": name,
        "datatype": datatype,
        "shape": [len(data)] if shape is None else shape,
        "data": data,
        **more,
    }


def strings(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def infer(
    inputs: list[dict[str, Any]], binary: bytes = b"", max_rows: int = 100, **request: Any
) -> tuple[dict[str, Any], bytes]:
    text = json.dumps({"inputs": inputs, **request}).encode()
    parsed = dialect.parse_request(text + binary, len(text) if binary else None, max_rows)
    body, length = dialect.answer(parsed, score(served(), parsed.rows), "m", NOW)
    return json.loads(body[:length]), b"" if length is None else body[length:]


def outputs(answer: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output.get("data") for output in answer["outputs"]}


def wanted() -> NDArray[np.float32]:
    logit: NDArray[np.float32] = served().logit(rows_of_instances(OBJECTS))
    return logit


def columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("I1", "I2", "C1", "C3", "C26")
    return [tensor(name, [row.get(name) for row in rows]) for name in names]


@pytest.mark.parametrize(
    "inputs",
    [
        columns(OBJECTS),
        [{**one, "shape": [3, 1]} for one in columns(OBJECTS)],
        [{**one, "shape": [3, 1], "data": [[x] for x in one["data"]]} for one in columns(OBJECTS)],
        [tensor("row", [line(row) for row in OBJECTS])],
        [tensor("row", [f"1\t{line(row)}\n" for row in OBJECTS])],
    ],
    ids=["[n]", "[n, 1]", "[n, 1], nested", "row", "row with label"],
)
def test_json_tensors_get_scores_in_json(inputs: list[dict[str, Any]]) -> None:
    answer, rest = infer(inputs, id="seven")
    assert rest == b""
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("m", "10", "seven")
    assert answer["parameters"] == {
        "version": 10,
        "topic": "clicks",
        "position": '{"0": 100, "1": 7}',
        "trained_until_ms": TRAINED_UNTIL_MS + 10,
        "age_ms": 4990,
        "bad_rows": 0,
    }
    assert [(o["name"], o["datatype"], o["shape"]) for o in answer["outputs"]] == [
        ("probability", "FP32", [3]),
        ("logit", "FP32", [3]),
    ]
    np.testing.assert_allclose(outputs(answer)["logit"], wanted(), atol=1e-6)


@pytest.mark.parametrize("short", [b"v1", b"known", b"a longer one"])
def test_binary_tensors_get_scores_in_binary_form(short: bytes) -> None:
    numbers = np.array([3, MISSING_INTEGER], "<i8").tobytes()
    texts = strings(b"known", short)
    inputs = [
        {"name": "I1", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
        tensor("C26", ["known", ""]),
        {
            "name": "C1",
            "datatype": "BYTES",
            "shape": [2, 1],
            "parameters": {"binary_data_size": len(texts)},
        },
    ]
    answer, rest = infer(inputs, numbers + texts, parameters={"binary_data_output": True})
    assert [output["parameters"] for output in answer["outputs"]] == [{"binary_data_size": 8}] * 2
    probability, logit = np.frombuffer(rest, "<f4").reshape(2, 2)
    rows = [{"I1": 3, "C1": "known", "C26": "known"}, {"C1": short.decode()}]
    np.testing.assert_allclose(logit, served().logit(rows_of_instances(rows)), atol=1e-6)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), atol=1e-6)


def test_a_bad_row_is_refused_alone_in_json_and_in_binary_form() -> None:
    answer, _ = infer(columns([OBJECTS[0], BAD]))
    found = outputs(answer)
    assert found["error"] == ["", "I1: not a 64-bit integer: b'x'"]
    assert found["logit"] == [pytest.approx(wanted()[0], abs=1e-6), None]
    assert answer["parameters"]["bad_rows"] == 1
    _, rest = infer(columns([OBJECTS[0], BAD]), parameters={"binary_data_output": True})
    assert np.isnan(np.frombuffer(rest[:16], "<f4").reshape(2, 2)[:, 1]).all()
    assert rest[16:] == strings(b"", b"I1: not a 64-bit integer: b'x'")


def test_only_the_outputs_asked_for_are_there_each_in_its_form() -> None:
    wants = [{"name": "logit"}, {"name": "error", "parameters": {"binary_data": True}}]
    answer, rest = infer(columns(OBJECTS), outputs=wants)
    assert [output["name"] for output in answer["outputs"]] == ["logit", "error"]
    assert rest == strings(b"", b"", b"")
    answer, _ = infer(columns(OBJECTS), outputs=[])
    assert [output["name"] for output in answer["outputs"]] == ["probability", "logit"]


I1 = tensor("I1", [1])
BINARY = {"name": "I1", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ([], "not a JSON object"),
        ({}, "inputs must be a list"),
        ({"inputs": []}, "inputs must be a list"),
        ({"inputs": [5]}, "input None is none of"),
        ({"inputs": [tensor("I14", [1])]}, "'I14' is none of"),
        ({"inputs": [I1, I1]}, "I1 is there twice"),
        ({"inputs": [{**I1, "datatype": "FP32"}]}, "I1 must be INT64, not 'FP32'"),
        ({"inputs": [{**I1, "shape": [2]}]}, "1 elements, its shape says 2"),
        ({"inputs": [{**I1, "shape": [1, 2]}]}, "shape"),
        ({"inputs": [{**I1, "shape": [-1]}]}, "shape"),
        ({"inputs": [{**I1, "shape": [True]}]}, "shape"),
        ({"inputs": [{**I1, "shape": None}]}, "shape"),
        ({"inputs": [{**I1, "data": 5}]}, "data must be a list"),
        ({"inputs": [{**BINARY, "parameters": {}}]}, "neither data nor binary_data_size"),
        ({"inputs": [{**BINARY, "parameters": [1]}]}, "binary_data_size"),
        ({"inputs": [{**BINARY, "parameters": {"binary_data_size": -8}}]}, "binary_data_size"),
        ({"inputs": [BINARY]}, "I1 is cut off"),
        ({"inputs": [I1, tensor("I2", [1, 2])]}, "I2 has 2 rows, others have 1"),
        ({"inputs": [tensor("row", [""]), I1]}, "needs no other input"),
        ({"inputs": [I1], "id": 5}, "id must be a string"),
        ({"inputs": [I1], "parameters": 5}, "parameters must be an object"),
        ({"inputs": [I1], "parameters": {"binary_data_output": 1}}, "true or false"),
        ({"inputs": [I1], "outputs": 5}, "outputs must be a list"),
        ({"inputs": [I1], "outputs": [{"name": "x"}]}, "'x' is none of"),
        ({"inputs": [I1], "outputs": [{"name": "logit"}] * 2}, "logit is there twice"),
    ],
)
def test_what_is_no_request_is_refused_with_a_reason(request_: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as raised:
        dialect.parse_request(json.dumps(request_).encode(), None, 5)
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("name", "data"),
    [("I1", b"1234567"), ("I1", b"1" * 16), ("C1", b"\1\0"), ("C1", strings(b"a", b"b"))]
    + [("C1", b"\xff\xff\xff\xff"), ("C1", b"")],
)
def test_binary_data_of_another_size_than_the_shapes_are_refused(name: str, data: bytes) -> None:
    one = tensor(name, [0], parameters={"binary_data_size": len(data)})
    text = json.dumps({"inputs": [one]}).encode()
    with pytest.raises(RequestError, match=name):
        dialect.parse_request(text + data, len(text), 5)


def test_bytes_that_belong_to_no_input_are_refused() -> None:
    text = json.dumps({"inputs": [I1]}).encode()
    with pytest.raises(RequestError, match="3 bytes after the last input"):
        dialect.parse_request(text + b"abc", len(text), 5)


def test_too_many_rows_are_refused_before_they_are_read() -> None:
    with pytest.raises(RequestError, match="6 rows, at most 5") as raised:
        infer([tensor("I1", [], shape=[6])], max_rows=5)
    assert raised.value.status == 413


def test_an_element_that_is_no_line_is_a_bad_row() -> None:
    answer, _ = infer([tensor("row", [line(OBJECTS[0]), 5, None])])
    assert outputs(answer)["error"][1:] == [
        "row: neither an object, a list nor a line: 5",
        "row: neither an object, a list nor a line: None",
    ]


def test_no_rows_get_no_scores() -> None:
    answer, _ = infer([tensor("I1", [])])
    assert outputs(answer) == {"probability": [], "logit": []}


def test_metadata_names_inputs_outputs_and_the_version() -> None:
    described = dialect.model_metadata(served().manifest, "m", NOW)
    assert len(described["inputs"]) == 40
    assert described["versions"] == ["10"]
    assert {output["name"] for output in described["outputs"]} == {"probability", "logit", "error"}
