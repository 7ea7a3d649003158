"""Answers that need the model: scores, readiness, metadata. It knows nothing of connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from src.publishing.version_format import Manifest
from src.rows.short_repr import short_repr
from src.scoring.follower import Follower, NotReadyError
from src.scoring.requests import open_inference, tensorflow_serving
from src.scoring.requests.errors import RequestError
from src.scoring.requests.scores import Scores, age_ms, score
from src.scoring.web.bodies import decompressed
from src.scoring.web.responses import INFERENCE_LENGTH, Response, json_response
from src.scoring.web.routes import Route
from src.scoring.web.settings import ServeSettings

SERVER_VERSION = "1"
_BINARY = b"application/octet-stream"


class ScoringService:
    """Answers requests with the version that serves.

    Args:
        settings: What the server was told.
        follower: Knows what serves.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        settings: ServeSettings,
        follower: Follower,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._follower = follower
        self._clock = clock

    def scored(
        self, route: Route, headers: Mapping[bytes, bytes], body: bytes
    ) -> tuple[Response, Scores]:
        """The answer to a scoring request, and its scores; one version makes all of them.

        Args:
            route: Names the dialect, the model and perhaps the version.
            headers: Of the request, names in lower case.
            body: As received.

        Raises:
            RequestError: The request is refused.
        """
        settings = self._settings
        self._check_model(route)
        body = decompressed(body, headers.get(b"content-encoding", b""), settings.max_body_bytes)
        if route.dialect == "v1":
            predict = tensorflow_serving.parse_request(body, settings.max_rows)
            scores = self._scores(route, predict.rows)
            return Response(200, tensorflow_serving.answer(predict, scores, self._clock())), scores
        length = _json_length(headers, len(body))
        infer = open_inference.parse_request(body, length, settings.max_rows)
        scores = self._scores(route, infer.rows)
        content, length = open_inference.answer(infer, scores, settings.model_name, self._clock())
        if length is None:
            return Response(200, content), scores
        after = [(INFERENCE_LENGTH, str(length).encode())]
        return Response(200, content, _BINARY, after), scores

    def _scores(self, route: Route, rows: Any) -> Scores:
        try:
            with self._follower.model() as model:
                _check_version(route, model.manifest)
                return score(model, rows)
        except NotReadyError as error:
            raise RequestError(503, str(error)) from None

    def described(self, route: Route) -> Response:
        """The answer to a question about the server or the model.

        Raises:
            RequestError: There is no such model or version, or none serves yet.
        """
        name, now = self._settings.model_name, self._clock()
        if route.what == "live":
            return json_response({"live": True})
        if route.what == "server":
            return json_response(open_inference.server_metadata(SERVER_VERSION))
        self._check_model(route)
        manifest = self._follower.manifest
        if route.what == "ready":
            return self._readiness(route, manifest)
        if manifest is None:
            raise RequestError(503, self._why_not_ready(None))
        _check_version(route, manifest)
        if route.dialect == "v2":
            return json_response(open_inference.model_metadata(manifest, name, now))
        if route.what == "metadata":
            return json_response(tensorflow_serving.model_metadata(manifest, name, now))
        return json_response(tensorflow_serving.model_status(manifest, now))

    def _readiness(self, route: Route, manifest: Manifest | None) -> Response:
        if manifest is not None:
            _check_version(route, manifest)
        reason = self._why_not_ready(manifest)
        content: dict[str, Any] = {"ready": not reason}
        if manifest is not None:
            content.update(tensorflow_serving.identity(manifest, self._clock()))
        if reason:
            content["error"] = reason
        return json_response(content, 503 if reason else 200)

    def _why_not_ready(self, manifest: Manifest | None) -> str:
        """Why the model is not ready; empty if it is."""
        if manifest is None:
            return self._follower.fault or f"no version in {self._settings.directory} yet"
        oldest = self._settings.max_age_seconds
        if not oldest:
            return ""
        age = age_ms(manifest, self._clock())
        if age is None:
            return f"the age of version {manifest.version} is not known"
        if age > oldest * 1000:
            return f"version {manifest.version} is {age / 1000:.1f} s old, at most {oldest:g} s are"
        return ""

    def status(self) -> dict[str, Any]:
        """What serves, for people and for the page."""
        manifest = self._follower.manifest
        reason = self._why_not_ready(manifest)
        content: dict[str, Any] = {
            "model": self._settings.model_name,
            "ready": not reason,
            "swaps": self._follower.swaps,
            "failed_loads": self._follower.failures,
            "fault": self._follower.fault or reason,
        }
        if manifest is not None:
            content.update(
                tensorflow_serving.identity(manifest, self._clock()),
                name=manifest.name,
                kind=manifest.kind,
                published_ms=manifest.published_ms,
                progressive=dict(manifest.progressive),
            )
        return content

    def _check_model(self, route: Route) -> None:
        name = self._settings.model_name
        if route.model not in (None, name):
            raise RequestError(404, f"there is no model {short_repr(route.model)}, only {name}")


def _check_version(route: Route, manifest: Manifest) -> None:
    if route.version not in (None, str(manifest.version)):
        raise RequestError(
            404, f"version {short_repr(route.version)} does not serve: {manifest.version} does"
        )


def _json_length(headers: Mapping[bytes, bytes], size: int) -> int | None:
    """How many bytes of a body of the Open Inference Protocol are its JSON text."""
    text = headers.get(INFERENCE_LENGTH)
    if text is None:
        return None
    length = int(text) if text.isdigit() and len(text) < 16 else -1
    if not 0 <= length <= size:
        name = INFERENCE_LENGTH.decode()
        raise RequestError(400, f"{name} {short_repr(text)} does not fit a body of {size} bytes")
    return length
