"""The trainer's session: its number tells the consumer for which trainer to read, and from where.

A commit whose session is new to the consumer makes it go back to the committed position. So a
trainer that has (re)started gets the rows after its checkpoint. A running trainer uses it too, to
get rows again that were lost on the way: a queue's answer can die with the queue.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable

from src.stream.position import Commit, Position
from src.stream.row_source import RowSource

logger = logging.getLogger(__name__)


class TrainerSession:
    """Commits positions under the session's number.

    ``commit`` runs in the training thread and ``read_again`` in that of the pipeline. A lock keeps
    them in order: a commit of an old session after that of a new one would send the consumer back.

    Args:
        source: For the training thread.
        open_source: Opens another one, for the pipeline's thread.
        position: Where the trainer starts; it is committed at once.
        ranks: How many ranks the trainer has.

    Raises:
        SourceError: The broker stayed away.
    """

    def __init__(
        self,
        source: RowSource,
        open_source: Callable[[], RowSource],
        position: Position,
        ranks: int = 1,
    ) -> None:
        self._source = source
        self._open_source = open_source
        self.position = self._durable = position
        self._ranks = ranks
        self._lock = threading.Lock()
        self.number = _new_number()
        source.commit(Commit(position, self.number, ranks))

    def commit(self, position: Position) -> None:
        """Commits the position of a durable checkpoint; a later commit makes up for a lost one."""
        with self._lock:
            self._durable = position
            self._source.try_commit(Commit(position, self.number, self._ranks))

    def read_again(self) -> int:
        """Has the consumer read again from the newest durable position; returns the new session.

        Raises:
            SourceError: The broker stayed away.
        """
        with self._lock, self._open_source() as source:
            number = _new_number()
            source.commit(Commit(self._durable, number, self._ranks))
            self.number = number
            return number


def _new_number() -> int:
    return secrets.randbits(62) + 1
