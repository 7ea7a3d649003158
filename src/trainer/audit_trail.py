"""The audit trail: a file that lists the rows each step was trained on."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

from src.process.output import OutputError
from src.stream.position import RowRange
from src.watching.line_file import rotated

logger = logging.getLogger(__name__)


def audit_line(step: int, rows: RowRange) -> str:
    """One line of the audit trail: a step and the rows of one partition in its batch."""
    return json.dumps({"step": step, **vars(rows)})


def begin_audit(path: str, step: int, fresh: bool) -> None:
    """Makes an audit trail list exactly the rows that the weights hold at a (re)start.

    The steps behind the last checkpoint are lost with the trainer that did them and will be done
    again: their lines are cut off. A trail of other weights is set aside.

    Args:
        path: The trail; "" for none.
        step: The step of the checkpoint from which training goes on; 0 for none.
        fresh: Whether training starts over.

    Raises:
        OutputError: The files can't be read or written.
    """
    if not path:
        return
    try:
        for name in (path, rotated(path)):
            if os.path.exists(name) and os.path.isfile(name):
                _set_aside(name) if fresh else _cut_off(name, step)
    except OSError as error:
        raise OutputError(f"can't write {error.filename}: {error.strerror}") from None


def _set_aside(name: str) -> None:
    if os.path.getsize(name):
        os.replace(name, f"{name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")


def _cut_off(name: str, step: int) -> None:
    """Cuts a file at its first line of a later step, or at one that was not finished."""
    end = 0
    with open(name, "rb") as lines:
        for line in lines:
            if not line.endswith(b"\n") or _step_of(line, name) > step:
                break
            end += len(line)
    surplus = Path(name).stat().st_size - end
    if surplus:
        logger.info(
            "%s: cutting %d bytes of steps behind %d, to be done again", name, surplus, step
        )
        os.truncate(name, end)


def _step_of(line: bytes, name: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{name} is no audit trail: {line[:80]!r}") from None
