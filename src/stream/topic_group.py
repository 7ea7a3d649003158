"""A topic and a group: where the topic begins and ends, and what the group has committed.

The group's commit is the position of the stream, and the trainer's session. A second group,
``<group>.consumer``, holds what the consumer alone knows: where no row follows any more. The
trainer covers that with its position. Else the position would stay before bad rows, and before
markers of transactions, until another row came.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Callable, TypeVar

from kafka.errors import CommitFailedError, KafkaError
from kafka.structs import OffsetAndMetadata

from src.cluster.broker import REQUEST_MS, BrokerConnection, SourceError, told
from src.cluster.group_members import ForeignMember, members_text, refuse_members
from src.cluster.settings import ClientSettings
from src.cluster.topic_identity import TopicIdentity
from src.stream.offsets import TopicOffsets
from src.stream.position import Commit, Position, Stretch

logger = logging.getLogger(__name__)

CONSUMER_SUFFIX = ".consumer"
Self = TypeVar("Self", bound="TopicGroup")


class TopicGroup:
    """A topic's offsets, and reads and writes of the group's commit; reads no rows.

    Args:
        cluster: host:port,... or all settings of the connection.
        topic: The topic.
        group_id: The group whose committed offsets are the stream's position.
        reconnect_seconds: How long to wait for a broker that went away.
        stopped: Called while waiting; True gives up at once.
        allow_loss: Where retention has deleted the wanted row, start at the first row there is.

    Attributes:
        partitions: The numbers of the topic's partitions, ascending.

    Raises:
        SourceError: No broker answers, or there is no such topic.
    """

    def __init__(
        self,
        cluster: str | ClientSettings,
        topic: str,
        group_id: str,
        reconnect_seconds: float = 60,
        stopped: Callable[[], bool] = lambda: False,
        allow_loss: bool = False,
    ) -> None:
        self._broker = BrokerConnection(cluster, topic, group_id, reconnect_seconds, stopped)
        self._connect_to_all_rows = partial(
            BrokerConnection, cluster, topic, group_id, 0.0, stopped, "read_uncommitted"
        )
        self._group_id = group_id
        self._identity = TopicIdentity(self._broker)
        self._offsets = TopicOffsets(self._broker, allow_loss)
        self._commits = GroupCommits(self._broker, group_id)
        self._consumers = _ConsumersGroup(
            # What it holds is a help that may come late: nothing waits for it.
            lambda name: BrokerConnection(cluster, topic, name, 0.0, stopped),
            group_id + CONSUMER_SUFFIX,
        )
        self.partitions = list(self._broker.handles)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the broker."""
        self._consumers.close()
        self._broker.close()

    @property
    def topic_id(self) -> str:
        """Kafka's id of the topic; "" where the broker is too old to tell."""
        return self._identity.topic_id

    def is_of_other_topic(self, topic_id: str) -> bool:
        """Whether an id that was kept is that of another topic, which had this one's name."""
        return self._identity.differs_from(topic_id)

    def expect_topic(self, topic_id: str) -> None:
        """The topic must be the one with this id, which an earlier connection has seen."""
        self._identity.expect(topic_id)

    def check_topic(self) -> bool:
        """Asks the broker whether the topic is still the same one; False if it does not answer.

        Raises:
            OtherTopic: It was deleted, or made anew.
        """
        return self._identity.check()

    def refuse_members(self) -> None:
        """Makes sure that nobody is subscribed with the group, as then nobody else can commit.

        Raises:
            SourceError: Somebody is; one line says who.
        """
        refuse_members(self._broker, self._group_id)

    def committed(self) -> Commit | None:
        """What the group has committed for the topic, or None where it has nothing yet."""
        return self._commits.read()

    def last_commit(self) -> Commit | None:
        """The same, with what the consumer's group knows of offsets without rows after it."""
        commit = self.committed()
        if commit is None:
            return None
        return replace(commit, position=commit.position.with_empty(self.try_read_empty()))

    def commit(self, commit: Commit) -> None:
        """Commits a position with its session, for all partitions at once.

        Raises:
            SourceError: The broker stayed away for longer than reconnect_seconds, or another
                program is a member of the group.
        """
        self._commits.write(replace(commit, topic_id=self.topic_id))

    def try_commit(self, commit: Commit) -> bool:
        """Commits once and returns whether it worked: a later commit makes up for a lost one."""
        return self._commits.try_write(replace(commit, topic_id=self.topic_id))

    def try_publish_empty(self, stretches: Mapping[int, Stretch]) -> bool:
        """Has the trainer know where no row follows; returns whether it worked."""
        return self._consumers.try_write(stretches, self.topic_id)

    def try_read_empty(self) -> dict[int, Stretch]:
        """Where the consumer says that no row follows; nothing where no broker answers."""
        return self._consumers.try_read(self.topic_id)

    def try_ends(self) -> dict[int, int] | None:
        """Where each partition ends by now; None where no broker answers within a second.

        The rows of open transactions are beyond the end.
        """
        try:
            return self._broker.request_ends(self.partitions)
        except KafkaError as error:
            logger.debug("the ends of %s are not known: %s", self._broker.topic, error)
            return None

    def holds_rows_back(self) -> bool:
        """Whether an open transaction holds rows back: they are there, but can't be read yet.

        Raises:
            SourceError: The broker stayed away.
        """
        with contextlib.closing(self._connect_to_all_rows()) as broker:
            ends = TopicOffsets(broker, allow_loss=False).ends()
        readable = self._offsets.ends()  # asked last, so that a commit in between adds to it
        return any(end > readable.get(number, end) for number, end in ends.items())

    def resolve_start(self, start: str) -> Position:
        """Where to begin reading.

        Args:
            start: "committed" (earliest where nothing is), or what ``TopicOffsets.of_start`` reads.

        Raises:
            SourceError: ``start`` can't be read, or retention has deleted the wanted rows.
        """
        committed = self.last_commit() if start == "committed" else None
        if committed is not None:
            position = committed.position
        else:
            position = Position(
                self._offsets.of_start("earliest" if start == "committed" else start)
            )
        self._offsets.reachable(position.reached, self._offsets.ends())
        return position


class _ConsumersGroup:
    """The second group; its connection is opened when it is needed first.

    Args:
        connect: Opens a connection for a group.
        group_id: The group.
    """

    def __init__(self, connect: Callable[[str], BrokerConnection], group_id: str) -> None:
        self._connect = connect
        self._group_id = group_id
        self._broker: BrokerConnection | None = None
        self._complained = False

    def close(self) -> None:
        if self._broker is not None:
            self._broker.close()
            self._broker = None

    def try_write(self, stretches: Mapping[int, Stretch], topic_id: str) -> bool:
        begins = {number: begin for number, (begin, _) in stretches.items()}
        position = Position(begins).with_empty(stretches)
        try:
            self._commits().write_once(Commit(position, 0, topic_id=topic_id))
        except (KafkaError, SourceError) as error:
            self._complain(error)
            return False
        return True

    def try_read(self, topic_id: str) -> dict[int, Stretch]:
        try:
            commit = self._commits().read_once()
        except (KafkaError, SourceError) as error:
            self._complain(error)
            return {}
        if commit is None or (topic_id and commit.topic_id != topic_id):
            return {}
        return commit.position.stretches

    def _commits(self) -> GroupCommits:
        if self._broker is None:
            self._broker = self._connect(self._group_id)
        return GroupCommits(self._broker, self._group_id)

    def _complain(self, error: Exception) -> None:
        level = logging.DEBUG if self._complained else logging.WARNING
        self._complained = True
        logger.log(
            level, "group %s: %s; where no row follows is not passed on", self._group_id, error
        )


class GroupCommits:
    """Reads and writes a group's commit.

    Args:
        broker: The connection.
        group_id: The group that it was opened for.
    """

    def __init__(self, broker: BrokerConnection, group_id: str) -> None:
        self._broker = broker
        self._group_id = group_id

    def read(self) -> Commit | None:
        """The last commit, or None where there is none.

        Raises:
            SourceError: The broker stayed away.
        """
        return self._broker.request("reading the committed position", self.read_once)

    def read_once(self) -> Commit | None:
        """The last commit, or None where there is none.

        Raises:
            KafkaError: No answer.
        """
        consumer, handles = self._broker.consumer, self._broker.handles
        found = {
            number: consumer.committed(handle, metadata=True, timeout_ms=REQUEST_MS)
            for number, handle in handles.items()
        }
        known = {number: entry for number, entry in found.items() if entry is not None}
        if not known:
            return None
        # A partition added since the last commit starts at its very first row. Retention may have
        # taken that one: then it is lost, and not passed over.
        offsets = {number: int(known[number].offset) if number in known else 0 for number in found}
        return Commit.from_offsets(
            offsets, {number: entry.metadata for number, entry in known.items()}
        )

    def write(self, commit: Commit) -> None:
        """Commits a position with its session, for all partitions at once.

        Raises:
            SourceError: The broker stayed away, or another program is a member of the group.
        """
        self._broker.request("committing the position", lambda: self.write_once(commit))

    def try_write(self, commit: Commit) -> bool:
        """Commits once and returns whether it worked: a later commit makes up for a lost one."""
        try:
            self.write_once(commit)
        except (KafkaError, ForeignMember) as error:
            why = told(error) if isinstance(error, KafkaError) else error
            logger.warning("position %s is not committed: %s", commit.position, why)
            return False
        return True

    def write_once(self, commit: Commit) -> None:
        """Commits once.

        Raises:
            KafkaError: It did not work.
            ForeignMember: Another program is a member of the group.
        """
        reached = commit.position.reached
        # Also partitions that the position does not know yet: what an earlier session has
        # committed for them holds no more.
        offsets = {
            handle: OffsetAndMetadata(reached.get(number, 0), commit.metadata(number), -1)
            for number, handle in self._broker.handles.items()
        }
        try:
            self._broker.consumer.commit(offsets, timeout_ms=REQUEST_MS)
        except CommitFailedError:
            raise ForeignMember(members_text(self._broker, self._group_id)) from None
