"""A topic is told from another one of its name; test_topic_and_group.py has the real broker."""

from __future__ import annotations

from uuid import UUID

import pytest

from src.cluster import topic_identity
from src.cluster.broker import BrokerConnection
from src.cluster.topic_identity import OtherTopic, TopicIdentity
from tests.stream.memory_broker import Broker


def identity() -> TopicIdentity:
    return TopicIdentity(BrokerConnection("memory:1", "rows", "group", 0.1, lambda: False))


def test_another_id_is_another_topic_and_an_unknown_one_none(memory_broker: Broker) -> None:
    one = identity()
    assert one.check()
    assert one.topic_id == str(UUID(int=1))
    assert one.differs_from(str(UUID(int=2)))
    assert not one.differs_from("")
    memory_broker.topic_id = UUID(int=0)  # of a broker that is too old
    assert one.check()
    memory_broker.topic_id = UUID(int=2)
    with pytest.raises(OtherTopic, match="deleted and made anew"):
        one.check()
    memory_broker.topic_id = UUID(int=0)
    unknown = identity()
    assert unknown.topic_id == ""
    assert not unknown.differs_from(str(UUID(int=1)))
    memory_broker.topic_id = UUID(int=3)  # after the broker's upgrade
    assert unknown.check()
    assert unknown.topic_id == str(UUID(int=3))


def test_a_broker_that_is_away_tells_nothing(memory_broker: Broker) -> None:
    one = identity()
    memory_broker.away = True
    assert not one.check()


def test_a_topic_is_gone_when_it_is_missing_for_a_while(
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_identity, "MISSING_SECONDS", 0.0)
    one = identity()
    memory_broker.rows.clear()
    with pytest.raises(OtherTopic, match="topic rows was deleted while it was in use"):
        one.check()
