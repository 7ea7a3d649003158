"""Files in Java's properties syntax: lines of text → keys and values, each with its line number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.|$)", re.DOTALL)
BLANKS = " \t\f"
REFERENCE = re.compile(r"\$(\$\{)|\$\{([^}]*)(\}?)")
VARIABLE = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)")


class PropertiesError(ValueError):
    """A line that can't be read; the message names no value, which may be a password.

    Attributes:
        line: The line's number, from 1.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class Property:
    """One key with its value.

    Attributes:
        key: The key.
        value: The value without the blanks around it and without escapes.
        raw: The value as it stands in the file, continuation lines joined.
        line: The number of its first line, from 1.
    """

    key: str
    value: str
    raw: str
    line: int

    def __repr__(self) -> str:
        return f"Property({self.key!r}, line {self.line})"


def parse_properties(text: str) -> list[Property]:
    """The keys and values of a file, in its order.

    Raises:
        PropertiesError: A line has no key or a broken escape.
    """
    return [_property(line, number) for number, line in _logical_lines(text)]


def expanded(value: str, environment: Mapping[str, str]) -> str:
    """A value with ``${NAME}`` replaced by an environment variable; ``$${`` stands for ``${``.

    ``${env:NAME}``, as Kafka's own configuration provider spells it, is the same.

    Raises:
        ValueError: A variable is not set, or the reference is of another kind or has no end.
    """

    def replaced(match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        if not match[3]:
            raise ValueError("${ has no }; $${ stands for ${ itself")
        variable = VARIABLE.fullmatch(match[2])
        if variable is None:
            raise ValueError(f"${{{match[2]}}} is no ${{NAME}} of an environment variable")
        if variable[1] not in environment:
            raise ValueError(f"the environment variable {variable[1]} is not set")
        return environment[variable[1]]

    return REFERENCE.sub(replaced, value)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that hold a key, continuation lines joined, with the number of the first."""
    lines = re.split(r"\r\n|\r|\n", text[text.startswith("\ufeff") :])
    numbered = iter(enumerate(lines, start=1))
    for number, line in numbered:
        line = line.lstrip(BLANKS)
        if not line or line[0] in "#!":
            continue
        while _continues(line):
            line = line[:-1] + next(numbered, (0, ""))[1].lstrip(BLANKS)
        yield number, line


def _continues(line: str) -> bool:
    """Whether an odd number of backslashes ends the line."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _property(line: str, number: int) -> Property:
    place = 0
    while place < len(line) and line[place] not in "=:" + BLANKS:
        place += 2 if line[place] == "\\" else 1
    key, rest = line[:place], line[place:].lstrip(BLANKS)
    raw = rest[1:] if rest[:1] in ("=", ":") else rest
    raw = raw.strip()
    if not key:
        raise PropertiesError(number, "has no key; expected key=value")
    return Property(_unescaped(key, number), _unescaped(raw, number), raw, number)


def _unescaped(text: str, line: int) -> str:
    def replaced(match: re.Match[str]) -> str:
        escape = match[1]
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        if escape == "u":
            raise PropertiesError(line, "has a \\u without four hexadecimal digits")
        return ESCAPES.get(escape, escape)

    plain = ESCAPE.sub(replaced, text)
    try:
        # Java writes a character beyond U+FFFF as two escapes, its halves in UTF-16.
        return plain.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise PropertiesError(
            line, "has half a character: \\ud800 to \\udfff stand in pairs"
        ) from None
