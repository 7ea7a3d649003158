"""HTTP connections whose clients may be slow or silent: uvicorn's, with a bound on every wait."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from src.scoring.web.settings import (
    HEADER_SECONDS,
    LAST_REQUEST_SECONDS,
    MAX_CONNECTIONS,
    MAX_HEADER_BYTES,
    WRITE_SECONDS,
)

_TOO_LARGE = b"the headers are too large"
_431 = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_TOO_LARGE), _TOO_LARGE)
)


class BoundedConnection(HttpToolsProtocol):
    """Closes a connection whose client takes too long.

    uvicorn itself waits for ever for the first request, for the rest of a request's headers, and
    for a client that does not read its answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_headers = True
        self._header_bytes = 0
        self._is_last = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuses the connection if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all waiting."""
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes a piece of a request."""
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._is_answering() and self._header_timer is None and self._in_headers:
            self._expect_headers()
        if self._in_headers and self._header_bytes > MAX_HEADER_BYTES:
            self.transport.write(_431)
            self.transport.close()

    def on_message_begin(self) -> None:
        """The first line of a request begins."""
        super().on_message_begin()
        self._in_headers, self._header_bytes = True, 0
        self._expect_headers()

    def on_headers_complete(self) -> None:
        """The headers are there; the body is for the application to wait for."""
        self._in_headers = False
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        super().on_headers_complete()
        if self._is_last:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The whole request is there; another may follow."""
        super().on_message_complete()
        self._in_headers, self._header_bytes = True, 0

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """The connection was idle for too long; what is left of an answer is not waited for."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def shutdown(self) -> None:
        """Ends the connection soon: a request may be on its way that its client counts on."""
        if self._is_answering():
            super().shutdown()
        else:
            self._is_last = True
            self.loop.call_later(LAST_REQUEST_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if not self._is_answering():
            self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._headers_are_late)

    def _headers_are_late(self) -> None:
        self._header_timer = None
        if self._is_answering():
            self._expect_headers()  # a request before it is still answered
        else:
            self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = self._write_timer = None
