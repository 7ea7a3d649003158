"""Joining and leaving the engine, and the names that it takes."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from src.channel import engine as engine_module
from src.channel import engine_repairs
from src.channel.engine import ChannelError, finalize
from src.channel.receiver import WindowReceiver
from src.channel.sender import WindowSender

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.mark.parametrize("name", ["", "click-log", "click/log"])
@pytest.mark.parametrize("end", [WindowSender, WindowReceiver])
def test_name_the_engine_would_misread_is_refused(end: Any, name: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        end("127.0.0.1", name, "criteo", 1)
    with pytest.raises(ValueError, match="dataset_name"):
        end("127.0.0.1", "demo", name, 1)


def test_stock_classes_are_what_is_used() -> None:
    from mindpandas.channel import DataReceiver, DataSender

    assert issubclass(WindowSender, DataSender)
    assert issubclass(WindowReceiver, DataReceiver)


def test_lost_engine_is_left_before_it_is_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(engine_module, "BaseChannel", lambda address: steps.append("join"))
    monkeypatch.setattr(engine_module, "finalize", lambda: steps.append("leave"))
    engine_module.join_engine("127.0.0.1")
    engine_repairs.engine_lost.set()
    engine_module.join_engine("127.0.0.1")
    engine_module.join_engine("127.0.0.1")
    assert steps == ["join", "leave", "join", "join"]


@pytest.mark.parametrize(
    ("failures", "message"), [(["not ready"] * 3, None), (["no such worker"], "no such worker")]
)
def test_store_that_is_just_starting_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, failures: list[str], message: str | None
) -> None:
    def put(value: Any) -> None:
        if failures:
            raise RuntimeError(failures.pop())

    monkeypatch.setattr(engine_module, "yr", SimpleNamespace(put=put))
    if message:
        with pytest.raises(ChannelError, match=message):
            engine_module.await_store()
    else:
        engine_module.await_store()
    assert not failures


def test_finalize_without_an_engine_does_nothing() -> None:
    finalize()


def test_a_client_that_does_not_end_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The real client can't be made to hang at will.
    hang = threading.Event()
    client = SimpleNamespace(is_initialized=lambda: True, finalize=hang.wait)
    monkeypatch.setattr(engine_module, "yr", client)
    monkeypatch.setattr(engine_module, "LEAVE_SECONDS", 0.1)
    finalize()
    assert "did not end within 0.1 s" in caplog.text
    hang.set()
