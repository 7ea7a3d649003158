"""Who else is a member of the group: while it has members, only they can commit."""

from __future__ import annotations

import logging
from typing import Any

from kafka.errors import KafkaError, for_code
from kafka.protocol.admin import DescribeGroupsRequest

from src.cluster.broker import REQUEST_MS, BrokerConnection, SourceError
from src.cluster.messages import ConsumerGroupDescribeRequest

logger = logging.getLogger(__name__)

MOST_NAMED = 3


class ForeignMember(SourceError):
    """Another program is a member of the group; one line says which one and where."""


def refuse_members(broker: BrokerConnection, group_id: str) -> None:
    """Makes sure that nobody is subscribed with this group.

    Consumer and trainer use a group for its offsets alone and never join it.

    Raises:
        ForeignMember: Somebody is.
    """
    members = find_members(broker, group_id)
    if members:
        raise ForeignMember(_text(group_id, members))


def members_text(broker: BrokerConnection, group_id: str) -> str:
    """Why a commit was refused: the names of the members that the group has."""
    members = find_members(broker, group_id)
    return _text(group_id, members or ["a program that has left since, or can't be listed"])


def find_members(broker: BrokerConnection, group_id: str) -> list[str]:
    """The group's live members, of the classic protocol or of ``group.protocol=consumer``.

    None where the broker does not tell.
    """
    return _described(
        broker, DescribeGroupsRequest(groups=[group_id], include_authorized_operations=False)
    ) or _described(
        broker,
        ConsumerGroupDescribeRequest(group_ids=[group_id], include_authorized_operations=False),
    )


def _described(broker: BrokerConnection, request: Any) -> list[str]:
    """The members in the answer to a request about one group."""
    consumer = broker.consumer
    try:
        if not consumer._coordinator.ensure_coordinator_ready(REQUEST_MS):
            return []
        future = consumer._manager.send(request, node_id=consumer._coordinator.coordinator())
        (group,) = consumer._net.run(consumer._manager.wait_for, future, REQUEST_MS).groups
    except KafkaError as error:  # an older broker, too, does not know the newer request
        logger.debug("%s: %s", request.name, error)
        return []
    if group.error_code:
        logger.debug("%s: %s", request.name, for_code(group.error_code).__name__)
        return []
    return [f"{one.client_id} at {one.client_host.lstrip('/')}" for one in group.members]


def _text(group_id: str, members: list[str]) -> str:
    named = ", ".join(members[:MOST_NAMED])
    more = f" and {len(members) - MOST_NAMED} more" if len(members) > MOST_NAMED else ""
    return (
        f"group {group_id} has other members: {named}{more}; consumer and trainer need a group "
        "of their own: end those members, or choose another --group_id for both"
    )
