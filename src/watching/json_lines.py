"""A file of JSON lines that is bounded: old parts are moved aside, and later removed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from typing import Any

from src.process.output import OutputError

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 << 20
KEPT_FILES = 3


class JsonLines:
    """A file of JSON lines that is moved aside to ``<path>.1`` … when it has grown large.

    Args:
        path: The file; "" for none.
        max_bytes: How large it may grow.
        kept: How many files moved aside are kept.

    Raises:
        OutputError: It can't be opened.
    """

    def __init__(self, path: str, max_bytes: int = MAX_FILE_BYTES, kept: int = KEPT_FILES) -> None:
        self._path = path
        self._handler: RotatingFileHandler | None = None
        if path:
            try:
                self._handler = _Rotating(
                    path, maxBytes=max_bytes, backupCount=kept, encoding="utf-8"
                )
            except OSError as error:
                raise OutputError(f"can't open {path}: {error.strerror}") from None

    def append(self, fields: Mapping[str, Any]) -> None:
        """Writes a line; a file that can't be written is given up with a warning."""
        if self._handler is None:
            return
        line = json.dumps(fields, allow_nan=False)
        try:
            self._handler.emit(logging.makeLogRecord({"msg": line}))
        except OSError as error:
            logger.warning("can't write %s, going on without it: %s", self._path, error.strerror)
            self.close()

    def close(self) -> None:
        """Closes the file."""
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.close()
            except OSError as error:
                logger.debug("closing %s: %s", self._path, error)


class _Rotating(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Lets the error through; logging's own way prints it and goes on for every line."""
        raise  # noqa: PLE0704 - it is called while an exception is handled
