"""The ASGI application: from a request's path to its answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from src.rows.short_repr import short_repr
from src.scoring.follower import Follower
from src.scoring.requests.errors import RequestError
from src.scoring.web.bodies import BodyReader, Disconnected, Receive
from src.scoring.web.numbers import CONTENT_TYPE, ServerNumbers
from src.scoring.web.responses import Response, Send, error_response, json_response
from src.scoring.web.routes import Route, find_route
from src.scoring.web.service import ScoringService
from src.scoring.web.settings import THREADS, ServeSettings

logger = logging.getLogger(__name__)

_METHODS = {"GET": ("GET", "HEAD"), "POST": ("POST",)}
_PATHS = "/v2, /v1/models/NAME, /metrics, /status"


class ScoringApp:
    """Answers requests; scoring runs in threads, so that all else is answered meanwhile.

    Args:
        settings: What the server was told.
        follower: Knows what serves.
        pages: Answers to other paths, such as a page for people.
    """

    def __init__(
        self,
        settings: ServeSettings,
        follower: Follower,
        pages: Mapping[str, Response] | None = None,
    ) -> None:
        self._settings = settings
        self._service = ScoringService(settings, follower)
        self._bodies = BodyReader(settings.max_body_bytes)
        self._waiting = 0
        self._numbers = ServerNumbers(follower, lambda: self._waiting)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="score")
        self._pages = dict(pages or {})

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request."""
        began = time.perf_counter()
        path = scope["path"]
        route = find_route(path)
        dialect = "other" if route is None else route.dialect
        try:
            response = await self._response(route, scope, receive)
        except Disconnected:
            return
        except asyncio.CancelledError:  # the server was told to stop, and this took too long
            response = error_response(503, "the server stops")
        except RequestError as error:
            response = error_response(error.status, str(error))
        except Exception:  # a fault of ours must not look like one of the connection
            logger.exception("a request failed: %s %s", scope["method"], short_repr(path))
            response = error_response(500, "the server failed; its log says how")
        is_scoring = route is not None and route.what == "score"
        seconds = time.perf_counter() - began if is_scoring else None
        self._numbers.on_answered(dialect, response.status, seconds)
        await response.send(send)

    def close(self) -> None:
        """Ends the threads, after the requests that they still score."""
        self._threads.shutdown()

    async def _response(
        self, route: Route | None, scope: Mapping[str, Any], receive: Receive
    ) -> Response:
        method = scope["method"]
        page = self._pages.get(scope["path"])
        allowed = _METHODS["GET" if route is None else route.method]
        if route is None and page is None:
            path = short_repr(scope["path"])
            raise RequestError(404, f"there is nothing at {path}; there is at {_PATHS}")
        if method not in allowed:
            refused = error_response(405, f"{short_repr(method)} is not {' or '.join(allowed)}")
            allow = (b"allow", ", ".join(allowed).encode())
            return Response(405, refused.body, headers=[allow])
        if route is None:
            assert page is not None
            return page
        if route.what == "score":
            return await self._scored(route, dict(scope["headers"]), receive)
        if route.what == "metrics":
            return Response(200, self._numbers.scraped(), CONTENT_TYPE)
        if route.what == "status":
            return json_response(self._status())
        return self._service.described(route)

    def _status(self) -> dict[str, Any]:
        numbers = self._numbers
        counts = {name: getattr(numbers, name) for name in ("requests", "failures", "rows")}
        return {**self._service.status(), **counts}

    async def _scored(
        self, route: Route, headers: Mapping[bytes, bytes], receive: Receive
    ) -> Response:
        body = await self._bodies.read(receive)
        if self._waiting >= self._settings.max_waiting:
            raise RequestError(429, f"{self._waiting} requests wait already")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            response, scores = await loop.run_in_executor(
                self._threads, self._service.scored, route, headers, body
            )
        finally:
            self._waiting -= 1
        self._numbers.on_scored(scores)
        return response
