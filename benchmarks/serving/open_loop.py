"""Requests at a steady rate, whether or not earlier ones are answered yet.

A client that waits for each answer before it asks again asks less often when the server is slow. So
it hides how slow the server is. Here each request is due at a time of its own, and its latency
counts from then. A request that fails on a connection which was used before is sent once more on a
new one, as HTTP clients do: a server may close a connection that is idle.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

TIMEOUT_SECONDS = 30.0
_END_OF_HEADERS = b"\r\n\r\n"


@dataclass
class Answers:
    """What came back.

    Attributes:
        latencies: Seconds from when a request was due to its whole answer, of good answers.
        failures: How many others there are, by what became of them.
        versions: The versions that have answered.
        due: When each good answer's request was due, seconds from the beginning.
    """

    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    versions: set[int] = field(default_factory=set)
    due: list[float] = field(default_factory=list)

    def percentiles(self) -> dict[str, float]:
        """p50, p99, p99.9 and the longest latency, milliseconds."""
        points = {"p50_ms": 50, "p99_ms": 99, "p99.9_ms": 99.9, "max_ms": 100}
        if not self.latencies:
            return {}
        return {
            name: float(np.percentile(self.latencies, point)) * 1000
            for name, point in points.items()
        }


class OpenLoop:
    """Sends requests.

    Args:
        port: Where the server listens, on this machine.
        path: Where they go.
        bodies: What they hold, in turn.
        rate: Requests per second.
    """

    def __init__(self, port: int, path: str, bodies: Sequence[bytes], rate: float) -> None:
        self.answers = Answers()
        self._port = port
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        self._requests = [
            f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies
        ]
        self._rate = rate
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def run(self, seconds: float) -> Answers:
        """Sends for so long, and waits for the last answers."""
        asyncio.run(self._run(seconds))
        return self.answers

    async def _run(self, seconds: float) -> None:
        began = time.monotonic()
        tasks = []
        for number in range(round(seconds * self._rate)):
            due = number / self._rate
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            request = self._requests[number % len(self._requests)]
            tasks.append(asyncio.create_task(self._one(request, began, due)))
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()

    async def _one(self, request: bytes, began: float, due: float) -> None:
        answers = self.answers
        try:
            status, body = await asyncio.wait_for(self._answer(request), TIMEOUT_SECONDS)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            answers.failures[repr(error)] += 1
            return
        if status != 200:
            answers.failures[f"{status}: {body[:200].decode(errors='replace')}"] += 1
            return
        found = json.loads(body)
        answers.latencies.append(time.monotonic() - began - due)
        answers.due.append(due)
        answers.versions.add(int(found["version"]))

    async def _answer(self, request: bytes) -> tuple[int, bytes]:
        while self._idle:
            try:
                return await self._exchange(self._idle.pop(), request)
            except (OSError, EOFError):
                continue  # it was closed meanwhile
        return await self._exchange(await asyncio.open_connection("127.0.0.1", self._port), request)

    async def _exchange(
        self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes
    ) -> tuple[int, bytes]:
        """(status, body) of an answer; IncompleteReadError, which is an EOFError, without one."""
        reader, writer = connection
        is_kept = False
        try:
            writer.write(request)
            head = (await reader.readuntil(_END_OF_HEADERS)).lower()
            length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
            is_kept = b"connection: close" not in head
        finally:
            if is_kept:
                self._idle.append(connection)
            else:
                writer.close()
        return int(head.split(b" ", 2)[1]), body


def measured(port: int, path: str, bodies: Sequence[bytes], rate: float, seconds: float) -> Answers:
    """The answers of one measurement; for a process of its own. Arguments as for ``OpenLoop``."""
    return OpenLoop(port, path, bodies, rate).run(seconds)


def bodies_of(lines: Sequence[bytes], rows: int) -> list[bytes]:
    """Requests of TensorFlow Serving's dialect, each with this number of lines."""
    return [
        json.dumps({"instances": [line.decode() for line in lines[begin : begin + rows]]}).encode()
        for begin in range(0, len(lines) - rows + 1, rows)
    ]
