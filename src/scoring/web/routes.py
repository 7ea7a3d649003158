"""Which path asks for what."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OF_MODEL = r"/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+))?"
_V1 = re.compile(rf"/v1{_OF_MODEL}(?P<what>:predict|/metadata)?", re.ASCII)
_V2 = re.compile(rf"/v2{_OF_MODEL}(?P<what>/infer|/ready)?", re.ASCII)
_PLAIN = {
    "/v2": "server",
    "/v2/health/live": "live",
    "/v2/health/ready": "ready",
    "/metrics": "metrics",
    "/status": "status",
}
_WHAT = {
    "/infer": "score",
    ":predict": "score",
    "/ready": "ready",
    "/metadata": "metadata",
}


@dataclass(frozen=True)
class Route:
    """What a path asks for.

    Attributes:
        dialect: ``v1``, ``v2`` or ``other``.
        what: ``score``, ``ready``, ``live``, ``server``, ``model``, ``metadata``, ``metrics`` or
            ``status``.
        model: The model's name; None where the path names none.
        version: The version; None where the path names none.
    """

    dialect: str
    what: str
    model: str | None = None
    version: str | None = None

    @property
    def method(self) -> str:
        """The HTTP method that it needs."""
        return "POST" if self.what == "score" else "GET"


def find_route(path: str) -> Route | None:
    """The route of a path; None where there is none."""
    if len(path) > 1:
        path = path.rstrip("/")
    if path in _PLAIN:
        return Route("v2" if path.startswith("/v2") else "other", _PLAIN[path])
    for dialect, pattern in (("v1", _V1), ("v2", _V2)):
        found = pattern.fullmatch(path)
        if found:
            what = _WHAT.get(found["what"] or "", "model")
            return Route(dialect, what, found["model"], found["version"])
    return None
