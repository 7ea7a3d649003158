"""Creates the topic, or grows it."""

from __future__ import annotations

import logging

from kafka import KafkaAdminClient
from kafka.admin import NewPartitions, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

logger = logging.getLogger(__name__)


class TopicError(RuntimeError):
    """The topic can't be made; one line says why."""


def ensure_topic(
    bootstrap_servers: str,
    topic: str,
    num_partitions: int,
    replication_factor: int,
    timeout_seconds: float = 10,
) -> int:
    """Makes sure that the topic has at least so many partitions.

    Args:
        bootstrap_servers: host:port,...
        topic: Its name.
        num_partitions: The partitions wanted; a topic that has more keeps them.
        replication_factor: Copies of each partition, where the topic is new.
        timeout_seconds: How long a broker is waited for.

    Returns:
        The partitions there are now.

    Raises:
        TopicError: No broker answers or it refuses.
    """
    milliseconds = int(timeout_seconds * 1000)
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap_servers.split(","),
            bootstrap_timeout_ms=milliseconds,
            request_timeout_ms=milliseconds,
        )
    except KafkaError as error:
        raise TopicError(f"no broker answers at {bootstrap_servers}: {error}") from None
    try:
        try:
            admin.create_topics([NewTopic(topic, num_partitions, replication_factor)])
            logger.info("created topic %s with %d partitions", topic, num_partitions)
            return num_partitions
        except TopicAlreadyExistsError:
            return _grow(admin, topic, num_partitions)
    except KafkaError as error:
        raise TopicError(f"topic {topic} at {bootstrap_servers}: {error}") from None
    finally:
        admin.close()


def _grow(admin: KafkaAdminClient, topic: str, num_partitions: int) -> int:
    present = len(admin.describe_topics([topic])[0]["partitions"])
    if present >= num_partitions:
        logger.info("topic %s is there with %d partitions", topic, present)
        return present
    admin.create_partitions({topic: NewPartitions(num_partitions)})
    logger.info("topic %s grown from %d to %d partitions", topic, present, num_partitions)
    return num_partitions
