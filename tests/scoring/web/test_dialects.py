"""Both dialects over real connections, with a stock client where there is one."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.scoring.requests.served import OBJECTS, line
from tests.scoring.web.running import NAME, Client

PREDICT = f"/v1/models/{NAME}:predict"
INFER = f"/v2/models/{NAME}/infer"
INSTANCES = {"instances": OBJECTS}


def predicted(client: Client) -> list[float]:
    status, found, _ = client.ask(PREDICT, INSTANCES)
    assert status == 200
    return [row["logit"] for row in found["predictions"]]


def triton(client: Client) -> Any:
    return tritonclient.http.InferenceServerClient(f"127.0.0.1:{client.port}")


def tensors(binary: bool) -> list[Any]:
    made = []
    for name in ("I1", "I2"):
        lowest = np.iinfo(np.int64).min
        numbers = [lowest if row.get(name) is None else row[name] for row in OBJECTS]
        tensor = tritonclient.http.InferInput(name, [len(OBJECTS)], "INT64")
        tensor.set_data_from_numpy(np.array(numbers, np.int64), binary_data=binary)
        made.append(tensor)
    for name in ("C1", "C3", "C26"):
        texts = np.array([[row.get(name, "")] for row in OBJECTS], dtype=object)
        tensor = tritonclient.http.InferInput(name, list(texts.shape), "BYTES")
        tensor.set_data_from_numpy(texts, binary_data=binary)
        made.append(tensor)
    return made


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_the_stock_triton_client_gets_the_same_scores_in_binary_form(
    client: Client, compression: str | None
) -> None:
    result = triton(client).infer(
        NAME,
        tensors(binary=True),
        request_id="one",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_allclose(result.as_numpy("logit"), predicted(client), atol=1e-6)
    assert result.as_numpy("probability").dtype == np.float32
    assert result.get_response()["id"] == "one"
    assert result.get_response()["parameters"]["version"] == 20


def test_the_stock_triton_client_gets_the_same_scores_in_json(client: Client) -> None:
    inputs = tensors(binary=False)
    for tensor in inputs[:2]:  # the client has no way of its own to say null
        tensor._data = [None if number < -(2**62) else number for number in tensor._data]
    outputs = [
        tritonclient.http.InferRequestedOutput(name, binary_data=False)
        for name in ("logit", "error")
    ]
    result = triton(client).infer(NAME, inputs, outputs=outputs)
    np.testing.assert_allclose(result.as_numpy("logit"), predicted(client), atol=1e-6)
    assert result.as_numpy("error").tolist() == ["", "", ""]


def test_the_stock_triton_client_sends_whole_rows_and_sees_bad_ones(client: Client) -> None:
    rows = [line(OBJECTS[0]), "no row", "1\t" + line(OBJECTS[2])]
    tensor = tritonclient.http.InferInput("row", [3], "BYTES")
    tensor.set_data_from_numpy(np.array(rows, dtype=object))
    result = triton(client).infer(NAME, [tensor])
    logit = result.as_numpy("logit")
    wanted = predicted(client)
    np.testing.assert_allclose(logit[[0, 2]], [wanted[0], wanted[2]], atol=1e-6)
    assert np.isnan(logit[1])
    assert result.as_numpy("error")[1] == b"row: 1 fields, expected 40: b'no row'"


def test_the_stock_triton_client_asks_about_server_and_model(client: Client) -> None:
    asking = triton(client)
    assert asking.is_server_live()
    assert asking.is_server_ready()
    assert asking.is_model_ready(NAME)
    assert asking.is_model_ready(NAME, "20")
    assert not asking.is_model_ready(NAME, "10")
    assert not asking.is_model_ready("other")
    assert asking.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert asking.get_model_metadata(NAME)["versions"] == ["20"]
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        asking.infer("other", tensors(binary=True))
    with pytest.raises(InferenceServerException, match="'10' does not serve: 20 does"):
        asking.infer(NAME, tensors(binary=True), model_version="10")
    with pytest.raises(InferenceServerException, match="there is nothing at"):
        asking.get_model_config(NAME)


def test_tensorflow_servings_paths_are_there(client: Client) -> None:
    status, found, _ = client.ask(f"/v1/models/{NAME}")
    assert status == 200
    assert found["model_version_status"][0]["state"] == "AVAILABLE"
    assert client.ask(f"/v1/models/{NAME}/versions/20")[0] == 200
    assert client.ask(f"/v1/models/{NAME}/versions/10")[0] == 404
    assert client.ask(f"/v1/models/{NAME}/metadata")[1]["model_spec"]["version"] == "20"
    status, found, _ = client.ask(f"/v1/models/{NAME}/versions/20:predict", INSTANCES)
    assert (status, found["version"]) == (200, 20)
    status, found, _ = client.ask(f"/v1/models/{NAME}/versions/10:predict", INSTANCES)
    assert (status, found) == (404, {"error": "version '10' does not serve: 20 does"})


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(json.dumps(INSTANCES).encode(), mtime=0)),
        ("deflate", zlib.compress(json.dumps(INSTANCES).encode())),
        ("identity", json.dumps(INSTANCES).encode()),
    ],
)
def test_compressed_bodies_are_read(client: Client, encoding: str, packed: bytes) -> None:
    status, found, _ = client.ask(PREDICT, packed, {"content-encoding": encoding})
    assert status == 200
    assert len(found["predictions"]) == 3


BOMB = gzip.compress(b" " * 10_000_000, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "reason"),
    [
        ("br", b"x", 415, "'br' is neither gzip nor deflate"),
        ("gzip, gzip", b"x", 415, "neither gzip nor deflate"),
        ("gzip", b"{}", 400, "can't be decompressed"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-3], 400, "does not end where it should"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"more", 400, "does not end where it should"),
        ("deflate", b"", 400, "does not end where it should"),
        ("gzip", BOMB, 413, "exceeds 100000 bytes when decompressed"),
    ],
)
def test_bodies_that_are_not_what_their_encoding_says_are_refused(
    client: Client, encoding: str, body: bytes, status: int, reason: str
) -> None:
    found = client.ask(PREDICT, body, {"content-encoding": encoding})
    assert found[0] == status
    assert reason in found[1]["error"]


@pytest.mark.parametrize(
    "length", ["-1", "x", "1000000", "9" * 40, "1.0", "\u00b2".encode().decode("latin-1")]
)
def test_a_json_length_that_does_not_fit_is_refused(client: Client, length: str) -> None:
    status, found, _ = client.ask(
        INFER, {"inputs": []}, {"Inference-Header-Content-Length": length}
    )
    assert status == 400
    assert "inference-header-content-length" in found["error"]


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [(PREDICT, "GET", "POST"), (INFER, "PUT", "POST"), ("/v2", "POST", "GET, HEAD")]
    + [("/metrics", "DELETE", "GET, HEAD")],
)
def test_another_method_is_refused_with_the_right_one(
    client: Client, path: str, method: str, allowed: str
) -> None:
    status, found, headers = client.ask(path, b"{}", method=method)
    assert (status, headers["allow"]) == (405, allowed)
    assert method in found["error"]


def test_heads_have_no_body_and_slashes_at_the_end_do_not_matter(client: Client) -> None:
    status, body, headers = client.ask("/v2/health/ready/", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


def test_unknown_paths_say_what_is_there(client: Client) -> None:
    for path in ("/v3", "/v2/models", "/v2/models/a/b/c", "/v1/models/%2F%00/x", "//", "/V2"):
        status, found, _ = client.ask(path)
        assert status == 404
        assert "/v2" in found["error"]
