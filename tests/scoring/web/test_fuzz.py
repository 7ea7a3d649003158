"""Whatever a client sends, it is not the server that fails."""

from __future__ import annotations

import asyncio
import copy
import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.scoring.follower import Follower
from src.scoring.web.app import ScoringApp
from tests.scoring.made import Publisher
from tests.scoring.requests.served import OBJECTS, line
from tests.scoring.web.running import NAME, Client, read_all, settings_of

PATHS = [
    f"/v1/models/{NAME}:predict",
    f"/v2/models/{NAME}/infer",
    f"/v2/models/{NAME}/versions/10/infer",
    f"/v1/models/{NAME}/versions/10:predict",
]
BINARY = {"binary_data_size": 9}
VALID: list[Any] = [
    {"instances": OBJECTS, "signature_name": "serving_default"},
    {"instances": [line(row) for row in OBJECTS]},
    {"instances": [line(row).split("\t") for row in OBJECTS]},
    {"inputs": {"I1": [1, 2], "C1": [["a"], ["b"]]}},
    {
        "id": "x",
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "logit", "parameters": {"binary_data": False}}],
        "inputs": [
            {"name": "I1", "datatype": "INT64", "shape": [2, 1], "data": [1, None]},
            {"name": "C1", "datatype": "BYTES", "shape": [2], "data": ["known", ""]},
        ],
    },
    {"inputs": [{"name": "row", "datatype": "BYTES", "shape": [1], "data": [line(OBJECTS[0])]}]},
    {
        "inputs": [
            {"name": "C1", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}
        ]
    },
]
ODD: list[Any] = [None, True, 0, -1, 2**63, 2**64, 1e308, 0.5, "", "x", "\0", "\t", "\U0001f600"]
ODD += [[], {}, [[]], [[[1]]], {"b64": "AA"}, {"b64": 1}, "9" * 400, {"row": "x"}, ["a", 1, None]]
JSON = st.recursive(
    st.one_of(st.sampled_from(ODD), st.integers(), st.floats(allow_nan=False), st.text(max_size=9)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)
HEADERS = st.dictionaries(
    st.sampled_from(["content-encoding", "inference-header-content-length", "accept-encoding"]),
    st.sampled_from(["gzip", "deflate", "br", "0", "9", "-1", "1000", "\xff", ""]),
    max_size=2,
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringApp]:
    folder: Path = tmp_path_factory.mktemp("versions")
    Publisher(folder).full()
    follower = Follower(folder)
    follower.look()
    made = ScoringApp(settings_of(folder, port=0), follower)
    yield made
    made.close()


def status_of(
    app: ScoringApp, path: str, body: bytes, headers: dict[str, str], method: str = "POST"
) -> int:
    """The status of an answer, whose content must be whole."""
    sent: list[Any] = []
    scope = {
        "path": path,
        "method": method,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start, content = sent
    assert dict(start["headers"])[b"content-length"] == str(len(content["body"])).encode()
    if start["status"] != 200:
        (reason,) = json.loads(content["body"]).values()
        assert reason.strip()
        assert "\n" not in reason
    return int(start["status"])


def changed(random: Random, content: Any) -> Any:
    """A copy in which something, somewhere, is something else."""
    content = copy.deepcopy(content)
    place = content
    while isinstance(place, (dict, list)) and place:
        key: Any = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if random.random() < 0.4 or not isinstance(place[key], (dict, list)) or not place[key]:
            kind = random.randrange(3)
            if kind == 0:
                place[key] = copy.deepcopy(random.choice(ODD))
            elif kind == 1:
                del place[key]
            elif isinstance(place, list):
                place.append(copy.deepcopy(random.choice(ODD)))
            else:
                place[str(random.choice(ODD))] = copy.deepcopy(random.choice(ODD))
            return content
        place = place[key]
    return random.choice(ODD)


@given(st.binary(max_size=200), st.sampled_from(PATHS), HEADERS)
def test_any_bytes_are_refused_or_scored(
    app: ScoringApp, body: bytes, path: str, headers: dict[str, str]
) -> None:
    assert status_of(app, path, body, headers) < 500
    assert status_of(app, path, gzip.compress(body), {**headers, "content-encoding": "gzip"}) < 500


@given(JSON, st.sampled_from(PATHS), HEADERS)
def test_any_json_is_refused_or_scored(
    app: ScoringApp, content: Any, path: str, headers: dict[str, str]
) -> None:
    assert status_of(app, path, json.dumps(content).encode(), headers) < 500


@pytest.mark.parametrize("seed", range(6))
def test_requests_that_are_nearly_right_are_refused_or_scored(
    app: ScoringApp, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    random = Random(seed)
    statuses = []
    for _ in range(100):
        content = random.choice(VALID)
        for _ in range(random.randrange(4)):
            content = changed(random, content)
        text = json.dumps(content).encode()
        tail = random.choice([b"", b"\5\0\0\0known", random.randbytes(9)])
        headers = {"inference-header-content-length": str(len(text))} if tail else {}
        statuses.append(status_of(app, random.choice(PATHS), text + tail, headers))
    assert max(statuses) < 500
    assert statuses.count(200) > 3
    assert statuses.count(400) > 10
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@given(st.text(max_size=40), st.sampled_from(["GET", "POST", "HEAD", "PATCH", "\xe4"]))
def test_any_path_and_method_is_answered(app: ScoringApp, path: str, method: str) -> None:
    assert status_of(app, "/" + path, b"{}", {}, method) < 500
    assert status_of(app, f"/v2/models/{path}/infer", b"{}", {}, method) < 500


def test_any_bytes_on_a_connection_leave_the_server_as_it_is(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    random = Random(7)
    start = f"POST {PATHS[0]} HTTP/1.1\r\nhost: a\r\n"
    request = f"{start}content-length: 2\r\n\r\n{{}}".encode()
    made = [random.randbytes(random.randrange(1, 300)) for _ in range(40)]
    for _ in range(150):
        cut = bytearray(request)
        for _ in range(random.randrange(1, 4)):
            cut[random.randrange(len(cut))] = random.randrange(256)
        made.append(bytes(cut))
    made += [
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"GET http://a/v2 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /%ff%00%0a HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v2\r\n\r\n",
        f"{start}transfer-encoding: chunked\r\n\r\nzz\r\n".encode(),
        f"{start}content-length: 5\r\ncontent-length: 6\r\n\r\nhello".encode(),
        f"{start}content-length: -5\r\n\r\n".encode(),
        f"{start}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
        f"{start}expect: 100-continue\r\ncontent-length: 2\r\n\r\n{{}}".encode(),
        request * 30,
    ]
    for data in made:
        with client.raw() as connection:
            try:
                connection.sendall(data)
                connection.shutdown(1)  # no more will come
                found = read_all(connection)
            except ConnectionResetError:
                continue
        for answer in found.split(b"HTTP/1.1 ")[1:]:
            assert answer[:1] in b"124", (data, answer)
    assert client.ask("/v2/health/ready")[0] == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
