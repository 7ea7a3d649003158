"""The trainer's session: its number tells the consumer for which trainer to read, and from where.

A commit whose session is new to the consumer makes it go back to the committed position. So a
trainer that has (re)started gets the rows after its checkpoint. A running trainer uses it too, to
get rows again that were lost on the way: a queue's answer can die with the queue.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

from src.checkpoints.unit import CheckpointError, Unit
from src.cluster.broker import SourceError
from src.cluster.group_members import ForeignMember
from src.cluster.topic_identity import OtherTopic
from src.config import Config
from src.stream.position import Commit, Position, Stretch
from src.stream.topic_group import TopicGroup

logger = logging.getLogger(__name__)

TOPIC_ID = "topic_id"
"""Kafka's id of the topic among what a checkpoint keeps; older ones lack it."""


WATCH_SECONDS = 2.0
CLOSE_SECONDS = 3.0


class StartError(RuntimeError):
    """There is no position to start from; one line says why."""


class TrainerSession:
    """Commits positions under the session's number.

    ``commit`` runs in the training thread or in that of the checkpoints, ``read_again`` in that of
    the pipeline, and ``cover`` in one of its own. A lock keeps them in order: a commit of an old
    session after that of a new one would send the consumer back.

    Args:
        source: For the training thread.
        open_source: Opens another one, for another thread; True waits for no broker that is away.
        position: Where the trainer starts; it is committed at once.
        ranks: How many ranks the trainer has.

    Raises:
        SourceError: The broker stayed away.
    """

    def __init__(
        self,
        source: TopicGroup,
        open_source: Callable[[bool], TopicGroup],
        position: Position,
        ranks: int = 1,
    ) -> None:
        self._source = source
        self._open_source = open_source
        self._beside: TopicGroup | None = None
        self.position = self._durable = position
        self._ranks = ranks
        self._stretches: Mapping[int, Stretch] = {}
        self._lock = threading.Lock()
        self.number = _new_number()
        source.commit(Commit(position, self.number, ranks))

    def commit(self, position: Position, is_beside: bool = False) -> None:
        """Commits the position of a durable checkpoint; a later commit makes up for a lost one.

        Args:
            position: The position.
            is_beside: Whether this is the thread of the checkpoints, which has a connection of its
                own.
        """
        source = self._source_beside() if is_beside else self._source
        with self._lock:
            self._durable = position.with_empty(self._stretches)
            if source is not None:
                source.try_commit(Commit(self._durable, self.number, self._ranks))

    def close(self) -> None:
        """Leaves the broker; no commit follows."""
        if self._beside is not None:
            self._beside.close()
            self._beside = None

    def covering(self, position: Position) -> Position:
        """A position that also covers the offsets after it that are known to hold no row."""
        return position.with_empty(self._stretches)

    def cover(self, group: TopicGroup, stretches: Mapping[int, Stretch]) -> None:
        """Commits the durable position anew where it can cover more offsets without rows.

        Args:
            group: The calling thread's.
            stretches: Where the consumer says that no row follows.
        """
        with self._lock:
            self._stretches = stretches
            position = self._durable.with_empty(stretches)
            if position != self._durable and group.try_commit(
                Commit(position, self.number, self._ranks)
            ):
                self._durable = position

    def read_again(self) -> int:
        """Has the consumer read again from the newest durable position; returns the new session.

        Raises:
            SourceError: The broker stayed away.
        """
        with self._lock, self._open_source(False) as source:
            number = _new_number()
            source.commit(Commit(self._durable, number, self._ranks))
            self.number = number
            return number

    def _source_beside(self) -> TopicGroup | None:
        """The connection of the checkpoints' thread; None where it can't be had now."""
        if self._beside is None:
            try:
                opened = self._open_source(True)
            except SourceError as error:
                logger.warning("the position is not committed: %s", error)
                return None
            if self._source.is_of_other_topic(opened.topic_id):
                opened.close()  # the offsets mean nothing there; the watch ends training
                return None
            self._beside = opened
        return self._beside


def _new_number() -> int:
    return secrets.randbits(62) + 1


class GroupWatch:
    """Looks every two seconds at what the training thread would notice late or never.

    * Where the consumer says that no row follows, the committed position goes on. Training may wait
      for the next row for ever.
    * A topic that was deleted, or made anew, ends training.
    * A program that has joined the group is named: no commit works while it is there.

    Args:
        open_group: Opens the connection.
        session: Covers what holds no row.
        end: Ends training.
        topic_id: Kafka's id of the topic that is trained; "" where that is not known. The topic may
            be made anew before this has a connection.

    Attributes:
        failure: Why it has ended training; None while it has not.
    """

    def __init__(
        self,
        open_group: Callable[[], TopicGroup],
        session: TrainerSession,
        end: Callable[[str], None],
        topic_id: str = "",
    ) -> None:
        self._open_group = open_group
        self._topic_id = topic_id
        self._session = session
        self._end = end
        self._closed = threading.Event()
        self._member_named = ""
        self.failure: OtherTopic | None = None
        self._thread = threading.Thread(target=self._watch, name="group-watch", daemon=True)

    def __enter__(self) -> GroupWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._thread.join(CLOSE_SECONDS)

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_SECONDS):
            try:
                with self._open_group() as group:
                    group.expect_topic(self._topic_id)
                    self._look_again_and_again(group)
            except OtherTopic as error:
                self.failure = error
                self._end(str(error))
                return
            except SourceError as error:
                logger.debug("topic and group are not watched for now: %s", error)

    def _look_again_and_again(self, group: TopicGroup) -> None:
        while not self._closed.wait(WATCH_SECONDS):
            group.check_topic()
            self._session.cover(group, group.try_read_empty())
            try:
                group.refuse_members()
                self._member_named = ""
            except ForeignMember as error:
                if str(error) != self._member_named:
                    logger.warning("%s", error)
                self._member_named = str(error)


def starting_position(group: TopicGroup, unit: Unit | None, config: Config) -> Position:
    """The checkpoint's position, or without one that which the consumer has committed.

    Args:
        group: Topic and group.
        unit: The checkpoint to resume from.
        config: The names of topic and group.

    Raises:
        CheckpointError: The checkpoint is of another topic of this name.
        StartError: There is no commit to start from, or it is of another topic.
        SourceError: The broker stayed away.
    """
    committed = group.last_commit()
    if not group.topic_id:
        logger.info("the broker gives topics no ids: one made anew under this name goes unnoticed")
    if unit is not None:
        _check_topic_id(unit, group)
        position = unit.position.with_empty(group.try_read_empty())
        if committed is not None:
            position = position.with_empty(committed.position.stretches)
        logger.info("resuming at step %d, position %s, from %s", unit.step, position, unit.path)
        _warn_of_commit_ahead(committed, position)
        return position
    if committed is None:
        raise StartError("the consumer has not committed where the stream starts")
    if group.is_of_other_topic(committed.topic_id):
        raise StartError(
            f"group {config.group_id} has a position of another topic named {config.topic}, which "
            "was deleted and made anew since: consumer.py --start earliest begins with this one"
        )
    logger.info("starting afresh at position %s", committed.position)
    return committed.position


def _check_topic_id(unit: Unit, group: TopicGroup) -> None:
    """Refuses a checkpoint whose offsets are those of another topic."""
    saved = str(unit.extra.get(TOPIC_ID, ""))
    if group.is_of_other_topic(saved):
        raise CheckpointError(
            f"{unit.path} is of another topic named {unit.topic}, which was deleted and made anew "
            f"since: its id is {saved} in the checkpoint, {group.topic_id} here; --fresh sets "
            "it aside"
        )


def _warn_of_commit_ahead(commit: Commit | None, position: Position) -> None:
    """Says that somebody has committed what no checkpoint holds; the checkpoint is what counts."""
    offsets = commit.position.offsets if commit else {}
    for number, offset in position.reached.items():
        ahead = offsets.get(number, offset) - offset
        if ahead > 0:
            logger.warning(
                "partition %d: the commit at offset %d is %d rows ahead of the checkpoint, "
                "going back to the checkpoint",
                number,
                offset + ahead,
                ahead,
            )
