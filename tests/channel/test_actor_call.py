"""Calls to the actor: late answers, failures, no order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from src.channel import actor_call, engine_repairs
from src.channel.engine import ChannelError
from tests.channel.stand_in_engine import Engine, make_receiver, make_sender


def test_late_answer_is_waited_for_without_another_call(engine: Engine) -> None:
    engine.late = 7
    assert make_sender(engine).send_window(np.arange(2))
    assert engine.calls == ["put", "put"]


def test_answer_that_never_comes_is_a_channel_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.late = 10**9
    seconds = iter(range(10**6))
    clock = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda seconds: None)
    monkeypatch.setattr(actor_call, "time", clock)
    with pytest.raises(ChannelError, match="shard 0: put: no answer within 30 s"):
        make_sender(engine).send_window(np.arange(2))
    assert engine_repairs.engine_lost.is_set()
    engine_repairs.engine_lost.clear()


def test_dead_actor_is_a_channel_error_of_one_line(engine: Engine) -> None:
    engine.failure = RuntimeError("Traceback\n  ...\ninstance has been deleted\n")
    with pytest.raises(ChannelError, match="demo/criteo.*deleted") as caught:
        make_sender(engine).send_window(np.arange(2))
    assert "\n" not in str(caught.value)
    with pytest.raises(ChannelError, match="demo/criteo.*deleted"):
        make_receiver(engine).receive(1.0)


def test_calls_carry_no_serial_number(engine: Engine) -> None:
    make_receiver(engine)
    assert engine.need_order is False
