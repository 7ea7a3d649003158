"""The types of the configuration's values, as they stand in YAML files and in flags."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any


def flag_type(kind: str, not_empty: bool = False) -> Callable[[str], Any]:
    """The ``type`` of a flag, for argparse.

    Args:
        kind: As in ``KEY_TYPES``.
        not_empty: Refuse a blank text.
    """

    def convert(text: str) -> Any:
        if not_empty and not text.strip():
            raise argparse.ArgumentTypeError("must not be empty")
        try:
            return converted(text, kind)
        except (TypeError, ValueError):
            raise argparse.ArgumentTypeError(expected(kind, text)) from None

    return convert


def converted(value: Any, kind: str) -> Any:
    """The value as a type; text is also read as a number, as YAML reads 8e-5 as text.

    Raises:
        OverflowError, TypeError, ValueError: It is no such value.
    """
    if kind == "str":
        return _as_str(value)
    if kind == "bool":
        return _as_bool(value)
    if kind == "int":
        return _as_int(value)
    if kind == "float":
        return _as_float(value)
    return _as_widths(value)


def expected(kind: str, value: Any) -> str:
    """What a value of this kind looks like, and what stood in its place."""
    known = {
        "str": "text",
        "bool": "True or False",
        "int": "a whole number",
        "float": "a number",
    }
    return f"expected {known.get(kind, 'a list of positive whole numbers')}, not {value!r}"


def _as_str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _as_float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError
    return number


def _as_widths(value: Any) -> tuple[int, ...]:
    parts = value.strip("[] ").split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise ValueError
    numbers = tuple(_as_int(part) for part in parts)
    if not numbers or min(numbers) <= 0:
        raise ValueError
    return numbers


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise ValueError


def _as_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)
