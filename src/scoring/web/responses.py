"""Answers, and how they are sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

Send = Callable[[Any], Awaitable[None]]
JSON = b"application/json"
INFERENCE_LENGTH = b"inference-header-content-length"


@dataclass(frozen=True)
class Response:
    """An answer.

    Attributes:
        status: The HTTP status.
        body: The content.
        content_type: What the content is.
        headers: More headers, by name in lower case.
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()

    async def send(self, send: Send) -> None:
        """Sends it."""
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.body)).encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_response(content: object, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(status, orjson.dumps(content))


def error_response(status: int, reason: str) -> Response:
    """An answer that only says why there is no other; both dialects have the same form."""
    headers = [(b"retry-after", b"1")] if status in (429, 503) else []
    if status in (408, 413):
        headers = [(b"connection", b"close")]  # the rest of the body is not read
    return Response(status, orjson.dumps({"error": reason}), headers=headers)
