"""Waiting for an end of the channel."""

from __future__ import annotations

from typing import Any

import pytest

from src.channel import attaching
from src.channel.attaching import PacedLog, attach, open_channel
from src.channel.engine import ChannelError, ChannelInUse

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_attach_reports_why_it_waits_and_stops_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sender(*args: Any) -> None:
        raise ChannelError("no sender yet")

    monkeypatch.setattr(attaching, "WindowReceiver", no_sender)
    reasons: list[str] = []
    ends = attach("127.0.0.1", "demo", "criteo", 0, lambda: len(reasons) == 3, reasons.append, 0.0)
    assert ends is None
    assert reasons == ["no sender yet"] * 3


def test_opening_waits_for_the_engine_but_not_for_a_sender_that_lives() -> None:
    answers: list[Any] = [ChannelError("no engine"), "the end", ChannelInUse("taken")]

    def next_answer() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    reasons: list[str] = []

    def opened() -> Any:
        return open_channel(next_answer, lambda: False, reasons.append, 0.0)

    assert opened() == "the end"
    with pytest.raises(ChannelInUse, match="taken"):
        opened()
    assert reasons == ["no engine"]


def test_a_reason_is_logged_at_once_and_then_every_ten_seconds() -> None:
    now = [0.0]
    reasons: list[str] = []
    log_reason = PacedLog(reasons.append, lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        log_reason("no sender" if second < 20 else "no engine")
    assert reasons == ["no sender", "no sender", "no engine"]
