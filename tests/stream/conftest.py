"""The fixtures of this folder's tests."""

from tests.stream.memory_broker_fixture import memory_broker

__all__ = ["memory_broker"]
