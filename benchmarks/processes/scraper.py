"""A stand-in for Prometheus: a process that fetches a page of metrics on request."""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
from multiprocessing.connection import Connection

PATIENCE_SECONDS = 10.0


class Scraper:
    """Fetches ``/metrics`` in another process, as a Prometheus server does.

    Args:
        host: The host that serves the metrics.
        port: The port.

    Attributes:
        page: The page that was fetched last; empty before the first.
    """

    def __init__(self, host: str, port: int) -> None:
        processes = multiprocessing.get_context("spawn")
        self._pipe, theirs = processes.Pipe()
        self._process = processes.Process(target=_fetch, args=(theirs, host, port), daemon=True)
        self._process.start()
        theirs.close()
        self._fetching = False
        self.page = ""

    def ask(self) -> None:
        """Starts a fetch after waiting for an earlier one; this process continues meanwhile."""
        self.finish()
        self._pipe.send(True)
        self._fetching = True

    def finish(self) -> None:
        """Waits for the page, if one is being fetched.

        Raises:
            RuntimeError: The page did not come.
        """
        if not self._fetching:
            return
        self._fetching = False
        if not self._pipe.poll(PATIENCE_SECONDS):
            raise RuntimeError(f"no numbers within {PATIENCE_SECONDS:g} s")
        try:
            self.page = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the numbers can't be fetched") from None

    def __enter__(self) -> Scraper:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # the process may have ended
            self._pipe.send(False)
        self._process.join(PATIENCE_SECONDS)
        self._pipe.close()


def _fetch(pipe: Connection, host: str, port: int) -> None:
    while pipe.recv():
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
        connection.request("GET", "/metrics")
        pipe.send(connection.getresponse().read().decode())
        connection.close()
