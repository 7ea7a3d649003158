"""Creates the topic, or adds partitions to it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource
from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidReplicationFactorError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownBrokerIdError,
    for_code,
)

from src.cluster.access import AccessError, Needs, check_access
from src.cluster.broker_list import ClusterConfigError
from src.cluster.settings import ClientSettings

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
DENIED = (TopicAuthorizationFailedError.errno, ClusterAuthorizationFailedError.errno)


class TopicError(RuntimeError):
    """The topic can't be created; one line says why.

    Attributes:
        retriable: Whether it may work later: a broker is away, or there are too few brokers.
    """

    def __init__(self, reason: str, retriable: bool = False) -> None:
        super().__init__(reason)
        self.retriable = retriable


def ensure_topic(
    cluster: str | ClientSettings,
    topic: str,
    num_partitions: int,
    replication_factor: int,
    timeout_seconds: float = 10,
    configs: Mapping[str, str] | None = None,
) -> int:
    """Creates the topic, or adds partitions where it has too few.

    Args:
        cluster: host:port,... or all settings of the connection.
        topic: Its name.
        num_partitions: The partitions wanted; a topic that has more keeps them.
        replication_factor: Copies of each partition, where the topic is new; -1 for the broker's
            default.
        timeout_seconds: How long to wait for a broker.
        configs: Kafka's settings of the topic, where it is new.

    Returns:
        How many partitions there are now.

    Raises:
        TopicError: No broker answers, or it refuses.
    """
    give_up_at = time.monotonic() + timeout_seconds
    while True:
        try:
            with contextlib.closing(_admin(cluster, timeout_seconds)) as admin:
                if _create(admin, topic, num_partitions, replication_factor, configs or {}):
                    return num_partitions
                return _grow(admin, topic, num_partitions)
        except TopicAuthorizationFailedError:
            raise TopicError(_lacking("Describe", topic)) from None
        except KafkaError as error:
            # The controller has just started. Only a new connection hears of its address.
            is_unknown = isinstance(error, UnknownBrokerIdError)
            if not is_unknown or time.monotonic() >= give_up_at:
                reason = f"topic {topic} at {cluster}: {error}"
                raise TopicError(reason, is_unknown or bool(error.retriable)) from None
            time.sleep(RETRY_SECONDS)


def _admin(cluster: str | ClientSettings, timeout_seconds: float) -> KafkaAdminClient:
    """A connection that manages topics.

    Raises:
        TopicError: No broker answers or lets this client in.
    """
    milliseconds = int(timeout_seconds * 1000)
    try:
        settings = ClientSettings.of(cluster)
        check_access(settings, Needs(), timeout_seconds)
        return KafkaAdminClient(
            **settings.client_options(),
            bootstrap_timeout_ms=milliseconds,
            request_timeout_ms=milliseconds,
        )
    except ClusterConfigError as error:
        raise TopicError(str(error)) from None
    except AccessError as error:
        raise TopicError(str(error), retriable=not error.is_final) from None
    except (KafkaError, ValueError) as error:
        raise TopicError(f"no broker answers at {cluster}: {error}", True) from None


def largest_message(
    cluster: str | ClientSettings, topic: str, timeout_seconds: float = 10
) -> int | None:
    """The topic's max.message.bytes; None where the cluster does not tell."""
    milliseconds = int(timeout_seconds * 1000)
    try:
        admin = KafkaAdminClient(
            **ClientSettings.of(cluster).client_options(),
            bootstrap_timeout_ms=milliseconds,
            request_timeout_ms=milliseconds,
        )
    except (KafkaError, ValueError) as error:
        logger.debug("the settings of topic %s are not known: %s", topic, error)
        return None
    try:
        resource = ConfigResource("TOPIC", topic, ["max.message.bytes"])
        answer = admin.describe_configs([resource], config_filter="all")
        return int(answer["topic"][topic]["max.message.bytes"]["value"])
    except (KafkaError, LookupError, TypeError, ValueError) as error:
        logger.debug("the settings of topic %s are not known: %s", topic, error)
        return None
    finally:
        admin.close()


def _create(
    admin: KafkaAdminClient,
    topic: str,
    num_partitions: int,
    replication_factor: int,
    configs: Mapping[str, str],
) -> bool:
    """Creates a topic and waits until it can be used; False where it is there already."""
    options = {
        "num_partitions": num_partitions,
        "replication_factor": replication_factor,
        "configs": dict(configs),
    }
    # The answer holds the broker's own message; a raised error would print the whole request.
    answer = admin.create_topics({topic: options}, raise_errors=False)["topics"][0]
    if answer["error_code"] == TopicAlreadyExistsError.errno:
        return False
    if answer["error_code"] in DENIED:
        if _partitions(admin, topic):
            return False  # it is there already: nothing has to be created
        raise TopicError(_lacking("Create", topic))
    if answer["error_code"]:
        kind = for_code(answer["error_code"])
        raise TopicError(
            f"topic {topic} can't be created: {_reason(answer)}",
            retriable=kind.retriable or kind is InvalidReplicationFactorError,
        )
    admin.wait_for_topics([topic])
    logger.info("created topic %s with %d partitions", topic, num_partitions)
    return True


def _grow(admin: KafkaAdminClient, topic: str, num_partitions: int) -> int:
    present = _partitions(admin, topic)
    if present >= num_partitions:
        logger.info("topic %s exists with %d partitions", topic, present)
        return present
    answer = admin.create_partitions({topic: num_partitions}, raise_errors=False)
    result = answer.to_dict()["results"][0]
    if result["error_code"] in DENIED:
        raise TopicError(_lacking("Alter", topic))
    if result["error_code"]:
        raise TopicError(f"topic {topic} can't get more partitions: {_reason(result)}")
    logger.info("topic %s now has %d partitions, it had %d", topic, num_partitions, present)
    return num_partitions


def _partitions(admin: KafkaAdminClient, topic: str) -> int:
    """How many partitions a topic has; 0 where it is not there or not shown."""
    return len(admin.describe_topics([topic])[0]["partitions"])


def _lacking(right: str, topic: str) -> str:
    return (
        f"the right {right} on topic {topic} is missing; docs/clusters.md lists what each script "
        "needs"
    )


def _reason(answer: Mapping[str, Any]) -> str:
    """Why the broker refused, on one line."""
    message = answer.get("error_message") or for_code(answer["error_code"]).__name__
    return " ".join(str(message).split())
