"""User and password out of a ``sasl.jaas.config`` line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"
SCRAM_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule"
CONTROL_FLAGS = ("required", "requisite", "sufficient", "optional")
TOKEN = re.compile(
    r"""\s*(?:
        (?P<option>[\w.]+)\s*=\s*(?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'
            |(?P<bare>[^\s;"']+))(?=[\s;]|$)
        |(?P<word>[\w.$]+)(?=[\s;]|$)
        |(?P<end>;)
    )""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Login:
    """Who logs in.

    Attributes:
        module: The class of the login module.
        username: The user's name, as written.
        password: The password, as written.
    """

    module: str
    username: str
    password: str = field(repr=False)


def parse_jaas(text: str) -> Login:
    """Reads ``MODULE required username="..." password="...";``.

    Raises:
        ValueError: It has another form. The message holds no value.
    """
    words, options = _tokens(text)
    if len(words) != 2 or words[1].lower() not in CONTROL_FLAGS:
        raise ValueError("expected MODULE required username=... password=...;")
    if words[0] not in (PLAIN_MODULE, SCRAM_MODULE):
        raise ValueError(f"{words[0]} is not supported; use PLAIN or SCRAM")
    for name in ("username", "password"):
        if name not in options:
            raise ValueError(f"has no {name}=...")
    return Login(words[0], options["username"], options["password"])


def _tokens(text: str) -> tuple[list[str], dict[str, str]]:
    """The words before the options, and the options."""
    words: list[str] = []
    options: dict[str, str] = {}
    place = 0
    while (match := TOKEN.match(text, place)) is not None:
        place = match.end()
        if match["end"]:
            if text[place:].strip():
                raise ValueError("something stands behind its semicolon")
            return words, options
        if match["word"]:
            words.append(match["word"])
            continue
        name = match["option"]
        if name in options:
            raise ValueError(f"{name} stands twice")
        quoted = match["double"] if match["double"] is not None else match["single"]
        options[name] = match["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    if text[place:].strip():
        what = "an unclosed quotation mark or a value with special characters without quotes"
        raise ValueError(f"can't be read: {what}")
    raise ValueError("must end with a semicolon")
