"""Paths as people write them in flags and in YAML files, where no shell has read them before."""

from __future__ import annotations

import os
import re

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})", re.ASCII)


class PathError(ValueError):
    """A text that can't be meant as a path; the message says why."""


def expanded_path(text: str) -> str:
    """The path that is meant: a leading ``~`` or ``~user`` becomes that user's home folder.

    A shell expands ``~`` only at the beginning of a word, so not in ``--data=~/day_0.tsv``. A
    variable is refused and not expanded, as ``$`` may be part of a file's name.

    Raises:
        PathError: It is blank, begins or ends with a blank, holds a NUL or an unknown user, or a
            variable and is no file.
    """
    if not text.strip():
        raise PathError("must not be empty")
    if text != text.strip():
        raise PathError(f"{text!r} begins or ends with a blank")
    if "\0" in text:
        raise PathError(f"{text!r} holds a NUL character")
    variable = _VARIABLE.search(text)
    if variable and not os.path.lexists(text):
        raise PathError(f"{variable[0]} in {text!r} is not expanded here: write the folder itself")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        user = path.split("/")[0]
        raise PathError(f"{user} in {text!r} is no user's home: a file of that name is ./{text}")
    return path
