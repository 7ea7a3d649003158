"""Lines for whoever reads a script's standard output, who may leave before its end."""

from __future__ import annotations

import os
import sys
from typing import TextIO


class OutputError(RuntimeError):
    """A file or standard output can't be written; one line says why."""


def say(*lines: str, to: TextIO | None = None) -> bool:
    """Prints lines at once.

    After a failure the stream leads nowhere: Python would report what it still holds at its end.

    Args:
        lines: Without their ends.
        to: The stream; None for standard output.

    Returns:
        False where the reader has left, as ``head`` does once it has enough.

    Raises:
        OutputError: They can't be written, on a full disk say.
    """
    stream = to or sys.stdout
    try:
        stream.write("".join(line + "\n" for line in lines))
        stream.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            return False
        name = "standard error" if stream is sys.stderr else "standard output"
        raise OutputError(f"can't write {name}: {error.strerror}") from None
    return True
