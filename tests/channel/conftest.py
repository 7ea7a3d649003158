"""The channel over a stand-in for the engine. tests/integration has the real one."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from src.channel import actor_call, attaching, receiver, sender
from src.channel import engine as engine_module
from tests.channel.stand_in_engine import Engine


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that goes on at once by what is slept."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + now[0], sleep=sleep)
    for module in (actor_call, attaching, engine_module, receiver, sender):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, no_pauses: SimpleNamespace) -> Engine:
    engine = Engine(shards=2)
    client = SimpleNamespace(put=engine.store, get=lambda ref, timeout: ref.value)
    for module in (actor_call, receiver, sender):
        monkeypatch.setattr(module, "yr", client)
    return engine
