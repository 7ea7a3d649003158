"""The sending end, over a stand-in for the engine."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from src.channel import engine_repairs
from src.channel import sender as sender_module
from src.channel.engine import ChannelError
from tests.channel.stand_in_engine import Engine, make_sender, queued


def test_each_shard_gets_its_slice_with_one_call_a_window(engine: Engine) -> None:
    sender = make_sender(engine)
    assert sender.send_window(np.arange(6))
    assert sender.send_window(np.arange(6, 12))
    assert queued(engine, 0) == [[0, 1, 2], [6, 7, 8]]
    assert queued(engine, 1) == [[3, 4, 5], [9, 10, 11]]
    assert engine.calls == ["put"] * 4
    assert sender.depth() == [2, 2]


@pytest.mark.parametrize("rows", [0, 3])
def test_window_that_can_not_be_cut_evenly_is_refused(engine: Engine, rows: int) -> None:
    with pytest.raises(ValueError, match="2 shards"):
        make_sender(engine).send_window(np.arange(rows))
    assert not engine.calls


def test_queue_size_is_asked_for_only_when_credits_have_run_out(engine: Engine) -> None:
    sender = make_sender(engine, queue=3)
    for _ in range(3):
        assert sender.send_window(np.arange(2))
    for queue in engine.queues:
        queue.clear()
    engine.calls.clear()
    for _ in range(3):
        assert sender.send_window(np.arange(2))
    assert engine.calls == ["get_queue_size"] * 2 + ["put"] * 6


def test_full_queue_is_never_overfilled_and_giving_up_says_false(engine: Engine) -> None:
    sender = make_sender(engine, queue=1)
    assert sender.send_window(np.arange(2))
    polls = iter([False] * 5 + [True] * 5)
    assert not sender.send_window(np.arange(2, 4), lambda: next(polls))
    assert sender.depth() == [1, 1]


def test_shard_with_room_is_served_before_the_full_one(engine: Engine) -> None:
    sender = make_sender(engine, queue=1)
    assert sender.send_window(np.arange(2))
    engine.queues[1].clear()
    polls = iter([False] * 10 + [True] * 5)
    assert not sender.send_window(np.arange(2, 4), lambda: next(polls))
    assert queued(engine, 0) == [[0]]
    assert queued(engine, 1) == [[3]]


def test_a_queue_that_stays_full_is_asked_about_ever_more_rarely(
    engine: Engine, no_pauses: SimpleNamespace
) -> None:
    sender = make_sender(engine, queue=10)
    for _ in range(10):
        assert sender.send_window(np.arange(2))
    engine.calls.clear()
    began = no_pauses.monotonic()

    def room_after_two_seconds() -> bool:
        if no_pauses.monotonic() - began > 2:
            for queue in engine.queues:
                queue.clear()
        return False

    assert sender.send_window(np.arange(2), room_after_two_seconds)
    assert no_pauses.monotonic() - began < 2.7  # the longest pause is half a second
    asked = engine.calls.count("get_queue_size") / 2
    assert 5 <= asked <= 12  # every 50 ms it would be 40


def test_giving_up_at_once_puts_nothing(engine: Engine) -> None:
    assert not make_sender(engine).send_window(np.arange(2), lambda: True)
    assert not engine.calls


def test_store_without_room_is_waited_for(engine: Engine) -> None:
    engine.full_stores = 3
    assert make_sender(engine).send_window(np.arange(2))
    assert queued(engine, 0) == [[0]]


def test_closed_sender_ends_the_channel_once_and_sends_no_more(engine: Engine) -> None:
    sender = make_sender(engine)
    sender.close()
    sender.close()
    assert engine.calls == ["terminate"]
    with pytest.raises(ChannelError, match="closed"):
        sender.send_window(np.arange(2))


def test_closing_does_not_wait_for_an_engine_that_hangs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(engine, "terminate", hanging.wait)
    monkeypatch.setattr(sender_module, "CLOSE_SECONDS", 0.01)
    make_sender(engine).close()
    hanging.set()


def test_sender_with_nothing_to_send_notices_that_the_engine_is_gone(engine: Engine) -> None:
    sender = make_sender(engine)
    sender.check()
    engine_repairs.engine_lost.set()
    try:
        with pytest.raises(ChannelError, match="the engine is gone"):
            sender.check()
    finally:
        engine_repairs.engine_lost.clear()
