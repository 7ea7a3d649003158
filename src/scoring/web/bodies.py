"""The body of a request: received within bounds, and decompressed within the same bounds."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from src.rows.short_repr import short_repr
from src.scoring.requests.errors import RequestError
from src.scoring.web.settings import BODY_SECONDS, HELD_BODIES

Receive = Callable[[], Awaitable[Any]]
DRAINED_BODIES = 4
"""Of a body that is too large, so many times the limit is still read: then the client is likely to
have sent all of it, and sees the answer. Otherwise its connection breaks first."""
_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": 15}


class Disconnected(Exception):  # noqa: N818 - nothing is wrong here
    """The client has gone."""


class BodyReader:
    """Receives bodies, and knows how much all of them hold.

    Args:
        max_bytes: The largest body.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0

    async def read(self, receive: Receive) -> bytes:
        """The body of a request.

        Raises:
            RequestError: It is too large or too slow, or all bodies together are too large.
            Disconnected: The client has gone.
        """
        ends = time.monotonic() + BODY_SECONDS
        pieces: list[bytes] = []
        size = held = 0
        try:
            while True:
                message = await _received(receive, ends - time.monotonic())
                size += len(message["body"])
                is_last = not message["more_body"]
                if size > self._max_bytes:
                    if is_last or size > DRAINED_BODIES * self._max_bytes:
                        raise RequestError(413, f"the body exceeds {self._max_bytes} bytes")
                    pieces.clear()
                    continue
                if self._held + len(message["body"]) > HELD_BODIES * self._max_bytes:
                    raise RequestError(429, "too many bodies at once")
                held += len(message["body"])
                self._held += len(message["body"])
                pieces.append(message["body"])
                if is_last:
                    return b"".join(pieces)
        finally:
            self._held -= held


async def _received(receive: Receive, seconds: float) -> Any:
    try:
        message = await asyncio.wait_for(receive(), max(seconds, 0.001))
    except asyncio.TimeoutError:
        raise RequestError(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    if message["type"] == "http.disconnect":
        raise Disconnected
    return message


def decompressed(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """A body as its client had it before compression.

    Args:
        body: As received.
        encoding: The header ``Content-Encoding``; empty without one.
        max_bytes: The largest body.

    Raises:
        RequestError: The encoding is not known, the body is damaged, or it becomes too large.
    """
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in _WINDOW_BITS:
        name = short_repr(encoding.decode("latin-1"))
        raise RequestError(415, f"content-encoding {name} is neither gzip nor deflate")
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        content = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RequestError(400, f"the body can't be decompressed: {error}") from None
    if len(content) > max_bytes:
        raise RequestError(413, f"the body exceeds {max_bytes} bytes when decompressed")
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(400, "the body can't be decompressed: it does not end where it should")
    return content
