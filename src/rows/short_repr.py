"""Values in error lines."""

from __future__ import annotations

MAX_LENGTH = 80


def short_repr(value: object) -> str:
    """The ``repr`` of a value, on one line and cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 3]}..."
