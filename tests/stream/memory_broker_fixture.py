"""A broker in memory takes the place of Kafka."""

from __future__ import annotations

import pytest

from src.cluster import broker as broker_module
from tests.stream.memory_broker import Broker, MemoryConsumer


@pytest.fixture
def memory_broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(MemoryConsumer, "broker", made, raising=False)
    monkeypatch.setattr(broker_module, "KafkaConsumer", MemoryConsumer)
    monkeypatch.setattr(broker_module, "check_access", lambda *_: None)
    monkeypatch.setattr(broker_module, "unreachable", lambda *_: "")
    monkeypatch.setattr(broker_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(broker_module, "PROBE_SECONDS", 0.01)
    return made
