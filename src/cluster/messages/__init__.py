"""Requests of Kafka's protocol that kafka-python lacks, in its own form: a JSON file for each.

In come the fields as Kafka's protocol numbers them. Out go classes of messages.
Guaranteed: a broker that does not know a request refuses it by a ``KafkaError``.
"""

from __future__ import annotations

from kafka.protocol.api_message import ApiMessage


# kafka-python has no types.
class ConsumerGroupDescribeRequest(ApiMessage, load_json=__name__):  # type: ignore[misc, call-arg]
    """Asks who is a member of groups of ``group.protocol=consumer`` (KIP-848)."""


class ConsumerGroupDescribeResponse(ApiMessage, load_json=__name__):  # type: ignore[misc, call-arg]
    """The answer: of each group its members, up to their subscription."""
