"""Which rows of a window are due: each row of the stream is taken once and in order.

A window of another session is dropped whole. A row below the position is skipped. At a gap the
missing rows are requested again; a gap that is still there afterwards is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from src.dictionaries.growth import Growth
from src.features.dense_coding import DENSE_TRANSFORMS
from src.process.arrays import Array
from src.stream.position import GapError, Position, PositionTracker

logger = logging.getLogger(__name__)


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
    """

    position: Position
    session: int
    dictionaries: int | None = None
    dense_transform: str = "minmax"
    growth: Growth | None = None
    with_keys: bool = False


class WindowAdmission:
    """Lets each row of the stream through once.

    Args:
        start: Where the stream starts.
        read_again: Requests the rows after the last checkpoint again and returns the session under
            which they will come. None where nobody can be asked: each gap is an error then.

    Attributes:
        dictionaries: Fingerprint of the windows' dictionaries; None before the first window.
        stale_rows: Rows dropped, as their window was read for another session.
    """

    def __init__(self, start: StreamStart, read_again: Callable[[], int] | None = None) -> None:
        self._tracker = PositionTracker(start.position)
        self._session = start.session
        self._dense_transform = start.dense_transform
        self._expected = {"value": start.growth is not None, "key": start.with_keys}
        self._read_again = read_again
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
        if int(window["session"][0]) != self._session:
            self.stale_rows += len(window)
            return window[:0]
        self._check_dictionaries(int(window["dictionaries"][0]))
        self._check_features(window)
        try:
            due = self._tracker.admit(window["partition"], window["start"], window["offset"])
        except GapError as gap:
            self._request_again(gap)
            return window[:0]
        return window if due.all() else window[due]

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
