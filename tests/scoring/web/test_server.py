"""Limits, readiness, numbers and swaps of a server that runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from src.scoring.web import bodies, connection
from src.scoring.web.service import ScoringService
from tests.scoring.made import LINES, Publisher
from tests.scoring.requests.served import OBJECTS
from tests.scoring.web.running import NAME, Client, read_all, running, settings_of

PREDICT = f"/v1/models/{NAME}:predict"
INFER = f"/v2/models/{NAME}/infer"
INSTANCES = {"instances": OBJECTS}
TEXTS = [line.decode() for line in LINES]


def numbers(client: Client) -> dict[str, float]:
    text = client.ask("/metrics")[1].decode()
    return {
        sample.name + "".join(sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_too_many_rows_and_too_large_bodies_are_refused(client: Client) -> None:
    status, found, _ = client.ask(PREDICT, {"instances": [{}] * 501})
    assert (status, found) == (413, {"error": "501 rows, at most 500 are taken"})
    for size in (100_001, 300_000):
        status, found, headers = client.ask(PREDICT, b" " * size)
        assert (status, found) == (413, {"error": "the body exceeds 100000 bytes"})
        assert headers["connection"] == "close"


def test_a_body_without_end_is_cut_off(client: Client) -> None:
    with client.raw() as sock:
        sock.sendall(f"POST {PREDICT} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        sent = 0
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the moment
            while sent < 200_000_000:
                sock.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
    assert sent < 50_000_000


@pytest.mark.parametrize(
    "beginning",
    [b"", b"\r\n", b"POST", b"GET /v2 HTTP/1.1\r\nhost: a\r\n", b"GET /v2 HTTP/1.1\r\n\r\nGET /"],
)
def test_a_client_that_stops_within_its_headers_is_left(
    client: Client, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.3)
    began = time.monotonic()
    with client.raw() as sock:
        sock.sendall(beginning)
        found = read_all(sock)
    assert time.monotonic() - began < 10
    assert found == b"" or found.startswith(b"HTTP/1.1 200")


def test_a_client_that_stops_within_its_body_is_told(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    with client.raw() as sock:
        sock.sendall(f"POST {PREDICT} HTTP/1.1\r\ncontent-length: 99\r\n\r\n{{".encode())
        found = read_all(sock)
    assert found.startswith(b"HTTP/1.1 408")
    assert b"the body did not come within 0.3 s" in found


def test_headers_without_end_are_refused(client: Client) -> None:
    with client.raw() as sock:
        sock.sendall(b"GET /v2 HTTP/1.1\r\n")
        found = b""
        try:
            for number in range(10_000):
                sock.sendall(b"x%d: %s\r\n" % (number, b"y" * 1000))
            found = read_all(sock)
        except OSError:
            pass
    assert found == b"" or found.startswith(b"HTTP/1.1 431")


def test_a_client_that_does_not_read_is_left(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.3)
    asked = f"GET /v2/models/{NAME} HTTP/1.1\r\n\r\n".encode()
    with client.raw() as sock:
        sock.settimeout(10)
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the moment
            for _ in range(4_000):
                sock.sendall(asked)
            time.sleep(1.5)
            while sock.recv(1 << 20):
                pass
            raise ConnectionResetError


def test_more_connections_than_there_may_be_are_closed_and_the_others_answered(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 5)
    sockets = [client.raw() for _ in range(9)]
    time.sleep(0.3)
    for sock in sockets:
        sock.close()
    time.sleep(0.3)
    assert client.ask("/v2/health/live")[0] == 200


def test_too_many_waiting_requests_are_refused_and_health_is_answered_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Publisher(tmp_path).full()
    gate = threading.Event()
    scored: Callable[..., Any] = ScoringService.scored

    def wait_and_score(*arguments: Any) -> Any:
        assert gate.wait(20)
        return scored(*arguments)

    monkeypatch.setattr(ScoringService, "scored", wait_and_score)
    with running(settings_of(tmp_path, max_waiting=4)) as client:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.ask(PREDICT, INSTANCES)[0]))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        while numbers(client)["online_server_waiting_requests"] < 4:
            time.sleep(0.01)
        status, found, headers = client.ask(PREDICT, INSTANCES)
        assert (status, found, headers["retry-after"]) == (
            429,
            {"error": "4 requests wait already"},
            "1",
        )
        assert client.ask("/v2/health/live")[0] == 200
        gate.set()
        for thread in threads:
            thread.join(20)
        assert answers == [200] * 4


def test_nothing_is_ready_before_the_first_version_and_all_is_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with running(settings_of(folder)) as client:
        assert client.ask("/v2/health/live")[0] == 200
        for path in ("/v2/health/ready", f"/v2/models/{NAME}/ready", f"/v1/models/{NAME}"):
            status, found, _ = client.ask(path)
            assert (status, found["error"]) == (503, f"no version in {folder} yet")
        assert client.ask(PREDICT, INSTANCES)[0] == 503
        assert "online_server_model_version" not in numbers(client)
        assert "online_server_model_age_seconds" not in numbers(client)
        Publisher(folder).full()
        ends = time.monotonic() + 10
        while client.ask("/v2/health/ready")[0] != 200:
            assert time.monotonic() < ends
        assert client.ask(PREDICT, INSTANCES)[0] == 200
        assert numbers(client)["online_server_model_version"] == 10


def test_a_model_that_is_too_old_is_not_ready_but_still_answers(tmp_path: Path) -> None:
    Publisher(tmp_path).full()
    with running(settings_of(tmp_path, max_age_seconds=5.0)) as client:
        status, found, _ = client.ask("/v2/health/ready")
        assert status == 503
        assert "s old, at most 5 s are" in found["error"]
        assert client.ask(PREDICT, INSTANCES)[0] == 200


def test_requests_rows_swaps_and_faults_are_counted(tmp_path: Path) -> None:
    made = Publisher(tmp_path)
    made.full()
    with running(settings_of(tmp_path)) as client:
        client.ask(PREDICT, INSTANCES)
        client.ask(PREDICT, {"instances": [*OBJECTS, {"I1": "x"}]})
        client.ask(PREDICT, b"{")
        client.ask(INFER, b"{")
        broken = made.delta().name
        (tmp_path / broken / "weights.safetensors").write_bytes(b"torn")
        ends = time.monotonic() + 10
        while not numbers(client)["online_server_newest_version_is_broken"]:
            assert time.monotonic() < ends
        found = numbers(client)
        assert found["online_server_requests_total200v1"] == 2
        assert found["online_server_requests_total400v1"] == 1
        assert found["online_server_requests_total400v2"] == 1
        assert found["online_server_request_seconds_countv1"] == 3
        assert (found["online_server_rows_total"], found["online_server_bad_rows_total"]) == (6, 1)
        assert found["online_server_swaps_total"] == 1
        assert found["online_server_failed_loads_total"] >= 1
        status = client.ask("/status")[1]
        assert broken in status["fault"]
        assert (status["version"], status["rows"], status["failures"]) == (10, 6, 0)


def test_every_answer_is_of_one_version_from_beginning_to_end(tmp_path: Path) -> None:
    made = Publisher(tmp_path)
    made.full()
    wanted = {made.step: made.expected().tolist()}
    done = threading.Event()
    answers: list[dict[str, Any]] = []

    def keep_asking() -> None:
        while not done.is_set():
            status, found, _ = client.ask(PREDICT, {"instances": TEXTS})
            assert status == 200
            answers.append(found)

    with running(settings_of(tmp_path)) as client:
        threads = [threading.Thread(target=keep_asking) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(25):
            made.full() if number % 9 == 8 else made.delta()
            wanted[made.step] = made.expected().tolist()
            time.sleep(0.06)
        done.set()
        for thread in threads:
            thread.join(20)
    assert len({found["version"] for found in answers}) > 5
    for found in answers:
        logits = [row["logit"] for row in found["predictions"]]
        assert logits == pytest.approx(wanted[found["version"]], abs=1e-5)
