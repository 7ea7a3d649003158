from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.serving.open_loop import OpenLoop, bodies_of


@contextmanager
def server(delays: list[float], closes: bool = False) -> Iterator[int]:
    """A server that takes so long for each request in turn, one after the other."""
    busy = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # noqa: N802
            self.rfile.read(int(self.headers["content-length"]))
            with busy:
                time.sleep(delays.pop(0) if delays else 0)
            body = json.dumps({"version": 7}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = closes

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        yield listening.server_address[1]
        listening.shutdown()
        thread.join(10)


def test_a_request_waits_from_when_it_was_due_though_the_server_was_busy_with_another() -> None:
    with server([0.5]) as port:
        answers = OpenLoop(port, "/", [b"{}"], rate=20).run(0.5)
    assert len(answers.latencies) == 10
    assert not answers.failures
    assert answers.versions == {7}
    by_due = [latency for _, latency in sorted(zip(answers.due, answers.latencies))]
    assert by_due[0] > 0.45
    assert by_due[4] > 0.25, "it was due while the first one was answered"
    assert answers.percentiles()["max_ms"] == max(by_due) * 1000


def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    with server([], closes=True) as port:
        answers = OpenLoop(port, "/", [b"{}"], rate=50).run(0.3)
    assert len(answers.latencies) == 15
    assert not answers.failures


def test_a_request_that_nobody_answers_has_failed() -> None:
    answers = OpenLoop(1, "/", [b"{}"], rate=10).run(0.2)
    assert sum(answers.failures.values()) == 2
    assert answers.percentiles() == {}


def test_bodies_hold_whole_requests_of_rows() -> None:
    bodies = bodies_of([b"a", b"b", b"c"], rows=2)
    assert [json.loads(body) for body in bodies] == [{"instances": ["a", "b"]}]
