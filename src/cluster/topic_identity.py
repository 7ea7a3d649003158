"""Which topic it is that bears a name: one that is deleted and made anew has the name, not the id.

Offsets mean nothing in another topic. So the topic's id is kept with each position.
"""

from __future__ import annotations

import logging
import time

from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from src.cluster.broker import QUICK_REQUEST_MS, BrokerConnection, SourceError

logger = logging.getLogger(__name__)

MISSING_SECONDS = 5.0
"""A broker that has just started may not know of a topic yet."""
CHECK_SECONDS = 5.0


class OtherTopic(SourceError):
    """The topic is not the one that it was; one line says so."""


class TopicIdentity:
    """The topic's id, and whether the topic is still the same.

    Args:
        broker: The connection.

    Attributes:
        topic_id: Kafka's id of the topic; "" where the broker is too old to tell.
    """

    def __init__(self, broker: BrokerConnection) -> None:
        self._broker = broker
        self._missing_since: float | None = None
        self._check_at = time.monotonic() + CHECK_SECONDS
        self.topic_id = self._known_id()

    def expect(self, topic_id: str) -> None:
        """The topic must be the one that an earlier connection has seen, if that knew its id."""
        self.topic_id = topic_id or self.topic_id

    def check_now_and_then(self) -> None:
        """Checks every few seconds.

        Raises:
            OtherTopic: The topic was deleted, or made anew.
        """
        if time.monotonic() >= self._check_at:
            self.check()

    def check(self) -> bool:
        """Asks the broker whether the topic is still the same one; True if it is.

        A broker that does not answer tells nothing.

        Raises:
            OtherTopic: The topic was deleted, or made anew.
        """
        self._check_at = time.monotonic() + CHECK_SECONDS
        try:
            self._refresh()
        except UnknownTopicOrPartitionError:
            self._note_missing()
            return False
        except KafkaError as error:
            logger.debug("the id of topic %s is not known: %s", self._broker.topic, error)
            return False
        self._missing_since = None
        found = self._known_id()
        if self.topic_id and found and found != self.topic_id:
            raise OtherTopic(
                f"topic {self._broker.topic} was deleted and made anew while it was in use: "
                f"its id was {self.topic_id} and is {found}"
            )
        self.topic_id = self.topic_id or found
        return True

    def differs_from(self, saved: str) -> bool:
        """Whether an id that was kept is certainly that of another topic."""
        return bool(saved and self.topic_id and saved != self.topic_id)

    def _refresh(self) -> None:
        consumer = self._broker.consumer
        future = consumer._cluster.request_update()
        consumer._net.run(consumer._manager.wait_for, future, QUICK_REQUEST_MS)
        if consumer._cluster.partitions_for_topic(self._broker.topic) is None:
            raise UnknownTopicOrPartitionError(self._broker.topic)

    def _known_id(self) -> str:
        """The id in the metadata that the client has; "" where it has none."""
        found = self._broker.consumer._cluster.topic_id(self._broker.topic)
        return str(found) if found is not None and found.int else ""

    def _note_missing(self) -> None:
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
        self._check_at = now + CHECK_SECONDS / 10
        if now - self._missing_since >= MISSING_SECONDS:
            raise OtherTopic(f"topic {self._broker.topic} was deleted while it was in use")
