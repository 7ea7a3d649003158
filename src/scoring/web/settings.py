"""What the server is told at its start, and its bounds that are not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HEADER_SECONDS = 10.0
"""How long a client may take for the headers of a request."""
MAX_HEADER_BYTES = 1 << 16
BODY_SECONDS = 10.0
"""How long a client may take for the body of a request."""
WRITE_SECONDS = 20.0
"""How long a client may leave an answer unread."""
KEEP_ALIVE_SECONDS = 75
"""How long a connection may be idle between two requests."""
MAX_CONNECTIONS = 500
SHUTDOWN_SECONDS = 20
"""How long requests that run may take after the server was told to stop."""
LAST_REQUEST_SECONDS = 0.3
"""How long an idle connection stays open then, for a request that is on its way."""
HELD_BODIES = 16
"""All bodies that are being received may hold so many times the largest body."""
THREADS = 2
"""Requests scored at the same time; more would only wait for each other."""


@dataclass(frozen=True)
class ServeSettings:
    """What the server is told.

    Attributes:
        directory: The folder of versions.
        model_name: The model's name in URLs.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        max_age_seconds: A model whose newest row is older is not ready; 0 for no limit.
        max_body_bytes: The largest body, before and after decompression.
        max_rows: The most rows in a request.
        max_waiting: The most requests that are scored or wait for it.
        take_over: Whether to listen beside a server on the same port, which is to end then.
    """

    directory: Path
    model_name: str
    host: str
    port: int
    max_age_seconds: float
    max_body_bytes: int
    max_rows: int
    max_waiting: int
    take_over: bool = False
