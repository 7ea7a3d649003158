"""Which rows of a window are due: each row of the stream is taken once and in order.

A window of another session is dropped whole. If only such windows come, somebody else has committed
to the group: the rows are requested again, under a new session. A row below the position is
skipped. At a gap the missing rows are requested again; a gap that is still there afterwards is an
error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from src.config import Config
from src.dictionaries.growing.growth import Growth
from src.features.dense_coding import DENSE_TRANSFORMS
from src.process.arrays import Array
from src.stream.position import GapError, Position, PositionTracker

logger = logging.getLogger(__name__)

FOREIGN_SECONDS = 5.0
"""A consumer follows a new session within a second, and dropping what its queue holds is quick."""


class DatasetError(RuntimeError):
    """The stream can't be trained on: it does not fit the trainer, or its channel is gone."""


@dataclass(frozen=True)
class StreamStart:
    """Where the stream starts, and what its windows must be like.

    Attributes:
        position: The first rows to take.
        session: Only windows that were read for this session are taken.
        dictionaries: The fingerprint that windows must have; None takes that of the first window.
        dense_transform: What the consumer must have done with the dense columns.
        growth: Gives ids to values that the dictionaries lack; None where the vocabulary is fixed.
        with_keys: Whether rows must have the keys of their fields.
        vocab_size: Every id must be below it; 0 for no check.
    """

    position: Position
    session: int
    dictionaries: int | None = None
    dense_transform: str = "minmax"
    growth: Growth | None = None
    with_keys: bool = False
    vocab_size: int = 0

    @classmethod
    def of(
        cls,
        config: Config,
        position: Position,
        session: int,
        dictionaries: int | None,
        growth: Growth | None = None,
    ) -> StreamStart:
        """The start of a trainer with this configuration."""
        return cls(
            position,
            session,
            dictionaries,
            config.dense_transform,
            growth,
            config.cross_bits > 0,
            config.vocab_size,
        )


class WindowAdmission:
    """Lets each row of the stream through once.

    Args:
        start: Where the stream starts.
        read_again: Requests the rows after the last checkpoint again and returns the session under
            which they will come. None where nobody can be asked: each gap is an error then.
        clock: A monotonic clock, seconds.

    Attributes:
        dictionaries: Fingerprint of the windows' dictionaries; None before the first window.
        stale_rows: Rows dropped, as their window was read for another session.
    """

    def __init__(
        self,
        start: StreamStart,
        read_again: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracker = PositionTracker(start.position)
        self._session = start.session
        self._dense_transform = start.dense_transform
        self._expected = {"value": start.growth is not None, "key": start.with_keys}
        self._vocab_size = start.vocab_size
        self._read_again = read_again
        self._clock = clock
        self._foreign_since: float | None = None
        self._foreign_session = 0
        self._requested_at: Position | None = None
        self.dictionaries = start.dictionaries
        self.stale_rows = 0

    @property
    def skipped_rows(self) -> int:
        """Rows that arrived again after they had been taken."""
        return self._tracker.skipped_rows

    def change_session(self, session: int) -> None:
        """From now on only windows of this session are taken."""
        self._session = session

    def change_sender(self) -> None:
        """Another sender may have rows that the one before it lost."""
        self._requested_at = None

    def due_rows(self, window: Array) -> Array:
        """The rows of a window that are due, possibly none.

        Raises:
            DatasetError: The window does not fit the trainer.
            GapError: Rows are missing, and requesting them again did not help or is impossible.
        """
        session = int(window["session"][0])
        if session != self._session:
            self.stale_rows += len(window)
            self._note_foreign(window, session)
            return window[:0]
        self._foreign_since = None
        self._check_dictionaries(int(window["dictionaries"][0]))
        self._check_features(window)
        try:
            due = self._tracker.admit(window["partition"], window["start"], window["offset"])
        except GapError as gap:
            self._request_again(gap)
            return window[:0]
        return window if due.all() else window[due]

    def check_ids(self, ids: Array) -> None:
        """Checks the ids of due rows, int32[rows, 39] in one piece, as that is quicker.

        Raises:
            DatasetError: An id is beyond the vocabulary.
        """
        largest = int(ids.max())
        if self._vocab_size and largest >= self._vocab_size:
            raise DatasetError(
                f"the consumer's rows have ids up to {largest}, "
                f"the trainer's vocab_size is {self._vocab_size}: it must be larger"
            )

    def take_stream_back(self) -> None:
        """Starts a session of its own when rows have come for another one for a while.

        Call it now and then: after somebody else's commit no more rows may come.
        """
        since = self._foreign_since
        if since is None or self._read_again is None or self._clock() - since < FOREIGN_SECONDS:
            return
        logger.warning(
            "for %.0f s only windows of session %d came, which is not this trainer's: somebody "
            "else has committed to its group; reading again from the last checkpoint",
            self._clock() - since,
            self._foreign_session,
        )
        self._foreign_since = None
        self._session = self._read_again()

    def _note_foreign(self, window: Array, session: int) -> None:
        """Remembers that rows which are due came for another session."""
        offsets = self._tracker.position.offsets
        if self._foreign_since is None and any(
            (window["offset"][window["partition"] == number] >= offset).any()
            for number, offset in offsets.items()
        ):
            self._foreign_since, self._foreign_session = self._clock(), session

    def _request_again(self, gap: GapError) -> None:
        """Starts another session, in which the missing rows come.

        A receiver whose queue dies during a request may reach the next queue of the same name.
        The answer is then lost with the first queue.

        Raises:
            GapError: Nobody can be asked, or this sender was asked at the same position before.
        """
        position = self._tracker.position
        if self._read_again is None or position == self._requested_at:
            raise gap
        self._requested_at = position
        logger.warning("%s: reading again from the last checkpoint", gap)
        self._session = self._read_again()

    def _check_dictionaries(self, fingerprint: int) -> None:
        if self.dictionaries is None:
            self.dictionaries = fingerprint
        if fingerprint != self.dictionaries:
            raise DatasetError(
                f"the consumer's dictionaries have fingerprint {fingerprint:016x}, "
                f"this model was trained with {self.dictionaries:016x}"
            )

    def _check_features(self, window: Array) -> None:
        """Refuses windows of a consumer whose flags disagree with the trainer's."""
        transform = DENSE_TRANSFORMS[int(window["dense_transform"][0])]
        if transform != self._dense_transform:
            raise DatasetError(
                f"the consumer was started with --dense_transform={transform}, the trainer with "
                f"--dense_transform={self._dense_transform}: both must be equal"
            )
        names = window.dtype.names
        assert names is not None, "a window is a structured array"
        for name, flag in (("value", "--admit_count"), ("key", "--cross_bits")):
            if (name in names) != self._expected[name]:
                consumer, trainer = ("with", "without") if name in names else ("without", "with")
                raise DatasetError(
                    f"the consumer was started {consumer} {flag}, the trainer {trainer}: "
                    "both need the flag"
                )
