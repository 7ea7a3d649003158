"""The types of the configuration's values, as they stand in YAML files and in flags."""

from __future__ import annotations

import math
import re
import reprlib
from typing import Any

from src.process.paths import PathError, expanded_path

PathText = str
"""The type of a key that names a file or a folder; empty for none."""
TopicName = str
"""The type of a key that names a Kafka topic of rows."""

MAX_TEXT = 10_000  # characters; Kafka's protocol ends at 32,767 bytes
MAX_TOPIC = 244  # characters: Kafka allows 249, and the dead-letter topic's name ends in ".dead"
_TOPIC = re.compile(r"[A-Za-z0-9._-]+")
_KAFKAS_OWN_TOPICS = (
    "__cluster_metadata",
    "__consumer_offsets",
    "__share_group_state",
    "__transaction_state",
)
_NOT_TEXT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # a lone surrogate is a byte of no UTF-8

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_EXPECTED = {
    "str": "text",
    "PathText": "a path",
    "TopicName": "text",
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
}
_short = reprlib.Repr()  # aliases in YAML can make a list of any size
_short.maxlevel = 2
_short.maxstring = _short.maxother = _short.maxlong = 80


class ValueProblem(ValueError):
    """A value that can't be of the type that its key asks for; the message says what it is."""


def converted(value: Any, kind: str) -> Any:
    """The value as a type; text is also read as a number, as YAML reads 8e-5 as text.

    Args:
        value: What stood in the file or behind the flag.
        kind: The annotation of the key in ``Config``.

    Raises:
        ValueProblem: It is no such value.
    """
    try:
        return _CONVERSIONS.get(kind, _as_widths)(value)
    except PathError as error:
        raise ValueProblem(str(error)) from None
    except ValueProblem:
        raise
    except (KeyError, OverflowError, TypeError, ValueError):
        raise ValueProblem(_expected(kind, value)) from None


def _expected(kind: str, value: Any) -> str:
    """What a value of this kind looks like, and what stood in its place."""
    form = _EXPECTED.get(kind, "a list of positive whole numbers")
    if value is None:
        return f"expected {form}, but there is nothing"
    if kind in ("str", "PathText", "TopicName") and isinstance(value, (bool, int, float)):
        return f"expected {form}, not {value!r}: put it in quotes"
    return f"expected {form}, not {_short.repr(value)}"


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _as_str(value: Any) -> str:
    text = _as_text(value)
    if len(text) > MAX_TEXT:
        raise ValueProblem(f"a text of {len(text):,} characters; at most {MAX_TEXT:,}")
    odd = _NOT_TEXT.search(text)
    if odd:
        what = "a control character" if odd[0] < " " or odd[0] == "\x7f" else "bytes of no UTF-8"
        raise ValueProblem(f"{_short.repr(text)} holds {what}")
    return text


def _as_topic(value: Any) -> str:
    name = _as_str(value)
    if name != name.strip() or not name:
        return name  # whoever asks for a name refuses that
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise ValueProblem(
            f"{_short.repr(name)} is no topic's name: Kafka allows letters and digits of ASCII, "
            "'.', '_' and '-', but not '.' or '..' alone"
        )
    if len(name) > MAX_TOPIC:
        raise ValueProblem(
            f"a topic's name of {len(name):,} characters; at most {MAX_TOPIC}, "
            "as its dead-letter topic's name is longer by five"
        )
    if name in _KAFKAS_OWN_TOPICS:
        raise ValueProblem(f"{name} is a topic of Kafka's own")
    return name


def _as_path(value: Any) -> str:
    text = _as_text(value)
    return expanded_path(text) if text else ""


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
    return _TRUTHS[_as_text(value).lower()]


def _as_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


_CONVERSIONS = {
    "str": _as_str,
    "PathText": _as_path,
    "TopicName": _as_topic,
    "bool": _as_bool,
    "int": _as_int,
    "float": _as_float,
}
