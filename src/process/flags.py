"""The parser of every script's flags: wrong usage is one line and exit code 2; types of flags."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, NoReturn

from src.process.paths import PathError, expanded_path


class FlagParser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are one line.

    A flag that is given twice has its last value, as in most programs.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})
        # What begins so is a value and no flag; argparse's own pattern leaves -1e-3 and -1,2 out.
        self._negative_number_matcher = re.compile(r"-\.?[0-9]")

    def parse_args(  # type: ignore[override]  # argparse's has one signature per namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """The flags; for an unknown one the error also suggests a similar one."""
        found: argparse.Namespace
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].split("=")[0]
            hint = did_you_mean(name.lstrip("-"), vars(found), "--") if name[:1] == "-" else ""
            self.error(f"unknown argument {name}{hint}")
        return found

    def error(self, message: str) -> NoReturn:
        """Says on one line what is wrong, without argparse's list of all flags."""
        line = " ".join(message.split())
        hint = f"usage: {self.usage}" if self.usage else "--help explains the flags"
        self.exit(2, f"{self.prog}: error: {line} ({hint})\n")


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of an error's text that suggests a known name like the unknown one, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def path_flag(text: str) -> Path:
    """The ``type`` of a flag that names a file or a folder; ``~`` is expanded.

    Raises:
        ArgumentTypeError: See ``expanded_path``.
    """
    return Path(path_text_flag(text))


def path_text_flag(text: str) -> str:
    """As ``path_flag``, but the path stays a text.

    Raises:
        ArgumentTypeError: See ``expanded_path``.
    """
    try:
        return expanded_path(text)
    except PathError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def optional_path_flag(text: str) -> str:
    """As ``path_text_flag``; an empty text means that there is no such file.

    Raises:
        ArgumentTypeError: See ``expanded_path``.
    """
    return path_text_flag(text) if text else ""


def number_flag(text: str) -> float:
    """The ``type`` of a flag that takes a finite number.

    Raises:
        ArgumentTypeError: It is something else.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a number, not {text!r}")
    return number


def count_flag(least: int, most: int) -> Callable[[str], int]:
    """The ``type`` of a flag that takes a whole number from ``least`` to ``most``."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}") from None
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {number}")
        return number

    return convert


port_flag = count_flag(1, 65_535)
"""The ``type`` of a flag that names a TCP port."""
