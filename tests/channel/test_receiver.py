"""The receiving end, over a stand-in for the engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from src.channel import receiver as receiver_module
from src.channel.engine import ChannelError
from tests.channel.stand_in_engine import Engine, Ref, make_receiver


def test_received_window_is_a_copy_that_took_one_call(engine: Engine) -> None:
    stored = np.arange(3)
    stored.flags.writeable = False
    engine.queues[1].append(Ref(stored))
    window = make_receiver(engine, shard=1).receive(1.0)
    assert window is not None
    assert window.tolist() == [0, 1, 2]
    assert window.flags.owndata and not np.shares_memory(window, stored)
    assert engine.calls == ["get"]


def test_empty_queue_gives_none_after_the_time_out_or_on_request(engine: Engine) -> None:
    receiver = make_receiver(engine)
    assert receiver.receive(0.0) is None
    assert receiver.receive(10.0, lambda: True) is None
    assert receiver.receive(0.01) is None


def test_window_whose_answer_is_late_comes_with_the_next_receive(engine: Engine) -> None:
    engine.queues[0].append(Ref(np.arange(3)))
    engine.late = 1
    receiver = make_receiver(engine)
    assert receiver.receive(0.0) is None
    window = receiver.receive(0.0)
    assert window is not None and window.tolist() == [0, 1, 2]
    assert engine.calls == ["get"]


def test_rows_that_the_store_does_not_find_at_once_come_with_a_later_receive(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.queues[0].extend([Ref(np.arange(3)), Ref(np.arange(5))])
    misses = [RuntimeError("get failed")] * 2

    def get(ref: Ref, timeout: float) -> Any:
        if isinstance(ref.value, np.ndarray) and misses:
            raise misses.pop()
        return ref.value

    monkeypatch.setattr(receiver_module, "yr", SimpleNamespace(get=get))
    receiver = make_receiver(engine)
    assert receiver.receive(60.0, lambda: True) is None
    assert receiver.receive(0.0) is None
    window = receiver.receive(0.0)
    assert window is not None and window.tolist() == [0, 1, 2]
    assert engine.calls == ["get"]


def test_rows_that_the_store_never_finds_are_an_error_in_the_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.queues[0].append(Ref(np.arange(3)))

    def get(ref: Ref, timeout: float) -> Any:
        if isinstance(ref.value, np.ndarray):
            raise RuntimeError("get failed")
        return ref.value

    monkeypatch.setattr(receiver_module, "yr", SimpleNamespace(get=get))
    receiver = make_receiver(engine)
    assert receiver.receive(0.0) is None
    receiver._fetch_until = 0.0  # the patience is over
    with pytest.raises(ChannelError, match="shard 0: fetch: get failed"):
        receiver.receive(0.0)


def test_closing_from_within_a_wait_ends_it(engine: Engine) -> None:
    receiver = make_receiver(engine)

    def close_and_go_on() -> bool:
        receiver.close()
        return False

    assert receiver.receive(60.0, close_and_go_on) is None
    with pytest.raises(ChannelError, match="closed"):
        receiver.receive(1.0)
