"""Whether a cluster lets this client in, asked before the first row: connection and rights.

kafka-python tries a refused login or certificate again and again, and a missing right shows only
when it is used. Here each has its line at the start. The rights are asked of the brokers themselves
and nothing is changed by it; a broker that does not tell them is believed to grant them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

from kafka.errors import KafkaError
from kafka.protocol.admin import CreateTopicsRequest, DescribeGroupsRequest
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest

from src.cluster.dialing import DialError, Dialogue
from src.cluster.settings import ClientSettings

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
MAX_BROKERS = 5  # more need not be tried to know that addresses can be reached
COORDINATOR_TRIES = 4

# Kafka's numbers: operations of its access control lists, and errors.
READ, WRITE, CREATE = 3, 4, 5
OPERATIONS = {READ: "Read", WRITE: "Write"}
UNKNOWN_TOPIC = 3
COORDINATOR_BUSY = (14, 15)
TOPIC_DENIED, GROUP_DENIED, CLUSTER_DENIED = 29, 30, 31
LAST_WITH_RIGHTS_OF_NEW_GROUPS = 5


class AccessError(RuntimeError):
    """The cluster does not let this client in; one line says why.

    Attributes:
        is_final: Whether trying again can't help.
    """

    def __init__(self, reason: str, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


@dataclass(frozen=True)
class Needs:
    """What a client will do.

    Attributes:
        reads: The topics that it reads.
        writes: The topics that it writes.
        creates: Those of them that it creates where they are not there.
        group: The group whose offsets it commits; empty for none.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    creates: tuple[str, ...] = ()
    group: str = ""


def check_access(
    settings: ClientSettings,
    needs: Needs,
    timeout_seconds: float,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Connects once as a client would, and checks the rights for what it needs.

    Args:
        settings: How to connect.
        needs: What the client will do.
        timeout_seconds: How long to wait for a broker that does not answer.
        stopped: Called between attempts; True gives up at once.

    Raises:
        AccessError: No broker answers, or one refuses this client, or a right is missing.
    """
    give_up_at = time.monotonic() + timeout_seconds
    while True:
        try:
            with _first_dialogue(settings, stopped) as dialogue:
                _check(settings, dialogue, needs)
            return
        except (DialError, KafkaError) as error:
            if isinstance(error, DialError) and error.is_final:
                raise AccessError(str(error), is_final=True) from None
            if stopped() or time.monotonic() >= give_up_at:
                reason = f"no broker answers at {settings}: {error}"
                raise AccessError(reason, is_final=False) from None
        time.sleep(RETRY_SECONDS)


def unreachable(settings: ClientSettings, topic: str) -> str:
    """Which brokers of a topic can't be reached, on one line; empty where that is not known.

    For the text of an error: kafka-python does not say whom it dialled in vain.
    """
    try:
        with _first_dialogue(settings, lambda: False) as dialogue:
            return "; ".join(_unreached(settings, dialogue, _metadata(dialogue, [topic]))[1])
    except (DialError, KafkaError):
        return ""


def _first_dialogue(settings: ClientSettings, stopped: Callable[[], bool]) -> Dialogue:
    """A connection to the first broker that lets us in."""
    errors: list[DialError] = []
    for host, port in settings.hosts():
        try:
            return Dialogue(settings, host, port)
        except DialError as error:
            errors.append(error)
        if stopped():
            break
    raise next((error for error in errors if error.is_final), errors[-1])


def _check(settings: ClientSettings, dialogue: Dialogue, needs: Needs) -> None:
    topics = [*needs.reads, *needs.writes]
    metadata = _metadata(dialogue, topics)
    reached, problems = _unreached(settings, dialogue, metadata)
    if problems and not reached:
        raise DialError(
            f"{dialogue.server} answers, but names brokers that can't be reached from here "
            f"(advertised.listeners): {'; '.join(problems)}",
            is_final=True,
        )
    for problem in problems:
        logger.warning("a broker of the cluster is away: %s", problem)
    missing = [*_missing_of_topics(dialogue, metadata, needs)]
    if needs.group:
        missing += _missing_of_group(settings, dialogue, needs.group)
    if missing:
        who = settings.user or "this client"
        raise DialError(
            f"{who} lacks rights at {dialogue.server}: {', '.join(dict.fromkeys(missing))}; "
            "docs/clusters.md lists what each script needs",
            is_final=True,
        )


def _metadata(dialogue: Dialogue, topics: list[str]) -> Any:
    return dialogue.ask(
        MetadataRequest(
            topics=[MetadataRequest.MetadataRequestTopic(name=topic) for topic in topics],
            allow_auto_topic_creation=False,
            include_topic_authorized_operations=True,
            max_version=12,
        )
    )


def _unreached(
    settings: ClientSettings, dialogue: Dialogue, metadata: Any
) -> tuple[bool, list[str]]:
    """Dials the leaders of the topics, or a few brokers where there is no leader.

    Where no leader is reached, others are tried. If one of them is there, the cluster gives the
    right addresses, and the leaders are away: others will lead soon.

    Returns:
        Whether one was reached, and what is wrong with the others.
    """
    leaders = {partition.leader_id for topic in metadata.topics for partition in topic.partitions}
    wanted = leaders & {broker.node_id for broker in metadata.brokers}
    brokers = sorted(metadata.brokers, key=lambda broker: broker.node_id not in wanted)
    reached, problems = False, []
    for broker in brokers[:MAX_BROKERS]:
        if reached and wanted and broker.node_id not in wanted:
            break
        if (broker.host, broker.port) == dialogue.address:
            reached = True
            continue
        try:
            Dialogue(settings, broker.host, broker.port).close()
            reached = True
        except DialError as error:
            problems.append(str(error))
    return reached, problems


def _missing_of_topics(dialogue: Dialogue, metadata: Any, needs: Needs) -> Iterator[str]:
    for topic in metadata.topics:
        # Each of these rights contains Describe, without which the topic is denied altogether.
        granted = set() if topic.error_code == TOPIC_DENIED else topic.authorized_operations
        for operation, names in ((READ, needs.reads), (WRITE, needs.writes)):
            if topic.name in names and granted is not None and operation not in granted:
                yield f"{OPERATIONS[operation]} on topic {topic.name}"
        may_be_new = topic.error_code in (UNKNOWN_TOPIC, TOPIC_DENIED)
        if topic.name in needs.creates and may_be_new and not _may_create(dialogue, topic.name):
            yield f"Create on topic {topic.name}"


def _may_create(dialogue: Dialogue, topic: str) -> bool:
    """Whether the broker would create a topic; it is only asked to check that."""
    answer = dialogue.ask(
        CreateTopicsRequest(
            topics=[
                CreateTopicsRequest.CreatableTopic(
                    name=topic, num_partitions=1, replication_factor=-1, assignments=[], configs=[]
                )
            ],
            timeout_ms=1_000,
            validate_only=True,
        )
    )
    return answer.topics[0].error_code not in (TOPIC_DENIED, CLUSTER_DENIED)


def _missing_of_group(settings: ClientSettings, dialogue: Dialogue, group: str) -> list[str]:
    for _ in range(COORDINATOR_TRIES):
        answer = dialogue.ask(FindCoordinatorRequest(key=group, key_type=0, max_version=3))
        if answer.error_code not in COORDINATOR_BUSY:
            break
        time.sleep(RETRY_SECONDS)
    if answer.error_code == GROUP_DENIED:
        return [f"Read on group {group}"]
    if answer.error_code:
        return []
    request = DescribeGroupsRequest(
        groups=[group],
        include_authorized_operations=True,
        max_version=LAST_WITH_RIGHTS_OF_NEW_GROUPS,
    )
    try:
        with Dialogue(settings, answer.host, answer.port) as coordinator:
            (described,) = coordinator.ask(request).groups
    except DialError as error:
        if error.is_final:
            raise
        logger.warning("the coordinator of group %s is away: %s", group, error)
        return []
    granted = described.authorized_operations
    return [f"Read on group {group}"] if granted and READ not in granted else []
