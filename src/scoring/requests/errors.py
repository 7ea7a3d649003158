"""Requests that can't be answered with scores."""

from __future__ import annotations


class RequestError(Exception):
    """The request as a whole is refused; one line says why.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
