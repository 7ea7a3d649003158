"""A server in a thread of the test's process, and requests to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.process.ports import free_port
from src.process.stop import StopFlag
from src.scoring.web.server import serve
from src.scoring.web.settings import ServeSettings

NAME = "widedeep"


def settings_of(directory: Path, **changes: Any) -> ServeSettings:
    values: dict[str, Any] = {
        "directory": directory,
        "model_name": NAME,
        "host": "127.0.0.1",
        "port": free_port(),
        "max_age_seconds": 0.0,
        "max_body_bytes": 100_000,
        "max_rows": 500,
        "max_waiting": 8,
        **changes,
    }
    return ServeSettings(**values)


class Client:
    """Requests to a server, each on a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self,
        path: str,
        content: Any = None,
        headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, parsed JSON or bytes, headers) of an answer."""
        body = content if isinstance(content, (bytes, type(None))) else json.dumps(content).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(
                method or ("GET" if body is None else "POST"), path, body, headers or {}
            )
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = found.get("content-type") == "application/json" and data
        return answer.status, json.loads(data) if is_json else data, found

    def raw(self) -> socket.socket:
        """A connection to write bytes to."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def running(settings: ServeSettings) -> Iterator[Client]:
    """A server while the block runs; a version serves if there is one."""
    flag = StopFlag()
    thread = threading.Thread(target=serve, args=(settings, flag))
    thread.start()
    client = Client(settings.port)
    try:
        wait_until_ready(client, (settings.directory / "current.json").exists())
        yield client
    finally:
        flag.set("the test has ended")
        thread.join(30)
        assert not thread.is_alive(), "the server stops"


def wait_until_ready(client: Client, has_version: bool) -> None:
    """Waits until the server answers, and until a version serves if there is one."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        try:
            status = client.ask("/status")[1]
        except OSError:
            time.sleep(0.02)
            continue
        if "version" in status or not has_version:
            return
        time.sleep(0.02)
    raise TimeoutError("the server is not ready")


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)
