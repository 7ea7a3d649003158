"""A client of the scoring service: one connection that is kept."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MODEL_NAME = "widedeep"
TIMEOUT_SECONDS = 5.0


class RequestFailedError(RuntimeError):
    """The service gave no scores; one line says why."""


@dataclass(frozen=True)
class Answer:
    """The scores of some rows.

    Attributes:
        logits: One for each row.
        version: The version that has scored them.
        position: Partition → the next offset to train.
        age_ms: How old that version's newest row was.
        received_at: When the answer came, seconds since 1970.
    """

    logits: Sequence[float]
    version: int
    position: dict[int | None, int]
    age_ms: int
    received_at: float


class ScoringClient:
    """Scores rows and counts how many requests were answered.

    Args:
        host: Where the service listens.
        port: Its port.

    Attributes:
        served: Requests answered with scores.
        failed: All others.
    """

    def __init__(self, host: str, port: int) -> None:
        self.served = 0
        self.failed = 0
        self._address = (host, port)
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Leaves the service."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def is_ready(self) -> bool:
        """Whether a model serves."""
        with contextlib.suppress(RequestFailedError):
            return self._request("GET", "/v2/health/ready")[0] == http.client.OK
        return False

    def score(self, lines: Sequence[str]) -> Answer:
        """Scores rows given as lines of Criteo's format.

        Raises:
            RequestFailedError: There are no scores.
        """
        row = {"name": "row", "datatype": "BYTES", "shape": [len(lines)], "data": list(lines)}
        try:
            status, body = self._request(
                "POST", f"/v2/models/{MODEL_NAME}/infer", json.dumps({"inputs": [row]}).encode()
            )
            if status != http.client.OK:
                raise RequestFailedError(f"{status}: {body[:200].decode(errors='replace')}")
            answer = _answer(json.loads(body))
        except (KeyError, StopIteration, TypeError, ValueError) as error:
            self.failed += 1
            raise RequestFailedError(f"not an answer: {error!r}") from None
        except RequestFailedError:
            self.failed += 1
            raise
        self.served += 1
        return answer

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    *self._address, timeout=TIMEOUT_SECONDS
                )
            self._connection.request(method, path, body)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise RequestFailedError(str(error) or type(error).__name__) from None


def _answer(body: dict[str, Any]) -> Answer:
    parameters = body["parameters"]
    logits = next(output["data"] for output in body["outputs"] if output["name"] == "logit")
    # A parameter of this protocol is a string, a number or a boolean.
    position = json.loads(parameters["position"])
    return Answer(
        logits,
        int(parameters["version"]),
        {int(partition): int(offset) for partition, offset in position.items()},
        int(parameters["age_ms"]),
        time.time(),
    )
