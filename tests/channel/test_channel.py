"""The channel's own logic, over a stand-in for the engine. tests/integration has the real one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from src.channel import channel, engine_repairs
from src.channel.channel import (
    ChannelError,
    ChannelInUse,
    PacedLog,
    WindowReceiver,
    WindowSender,
    attach,
    finalize,
    open_channel,
)


class Ref:
    """A stored object, or the result of a call."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.late = 0  # how many waits go by before the answer comes

    def wait(self, timeout: float) -> None:
        if self.late:
            self.late -= 1
            raise FutureTimeoutError
        if isinstance(self.value, Exception):
            raise self.value


class Engine:
    """What the channel uses of `yr`, and the one actor in it; `calls` lists the calls it got."""

    def __init__(self, shards: int) -> None:
        self.queues: list[deque[Ref]] = [deque() for _ in range(shards)]
        self.calls: list[str] = []
        self.late = 0
        self.failure: Exception | None = None
        self.full_stores = 0
        self.need_order = True
        methods = ("get", "put", "get_queue_size", "get_num_shards")
        for name in methods:
            setattr(self, name, SimpleNamespace(invoke=self._method(name)))

    def _method(self, name: str) -> Any:
        def invoke(*args: Any) -> Ref:
            self.calls.append(name)
            ref = Ref(self.failure if self.failure else getattr(self, "_" + name)(*args))
            ref.late = self.late
            return ref

        return invoke

    def _get(self, shard: int) -> Ref | None:
        return self.queues[shard].popleft() if self.queues[shard] else None

    def _put(self, refs: list[Ref], shard: int) -> None:
        self.queues[shard].append(refs[0])

    def _get_queue_size(self, shard: int) -> int:
        return len(self.queues[shard])

    def _get_num_shards(self) -> int:
        return len(self.queues)

    def terminate(self) -> None:
        self.calls.append("terminate")

    def store(self, value: Any) -> Ref:
        if self.full_stores:
            self.full_stores -= 1
            raise RuntimeError("code: [Out of memory]")
        return Ref(value)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None)
    monkeypatch.setattr(channel, "time", clock)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    engine = Engine(shards=2)
    stand_in = SimpleNamespace(put=engine.store, get=lambda ref, timeout: ref.value)
    monkeypatch.setattr(channel, "yr", stand_in)
    yield engine


def make_sender(engine: Engine, queue: int = 3) -> WindowSender:
    sender = WindowSender.__new__(WindowSender)
    sender._name, sender._timeout, sender._closed = "demo/criteo", 10, False
    sender._sending = threading.Lock()
    sender._num_shards, sender.max_queue_size = len(engine.queues), queue
    sender._credits = [queue] * len(engine.queues)
    sender.actor = engine
    return sender


def make_receiver(engine: Engine, shard: int = 0) -> WindowReceiver:
    receiver = WindowReceiver.__new__(WindowReceiver)
    receiver._name, receiver._timeout, receiver._closed = "demo/criteo", 10, False
    receiver._receiving, receiver._request = threading.Lock(), None
    receiver._num_shards, receiver._shard_id = len(engine.queues), shard
    receiver.actor = engine
    return receiver


def queued(engine: Engine, shard: int) -> list[list[int]]:
    return [ref.value.tolist() for ref in engine.queues[shard]]


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


def test_giving_up_at_once_puts_nothing(engine: Engine) -> None:
    assert not make_sender(engine).send_window(np.arange(2), lambda: True)
    assert not engine.calls


def test_store_without_room_is_waited_for(engine: Engine) -> None:
    engine.full_stores = 3
    assert make_sender(engine).send_window(np.arange(2))
    assert queued(engine, 0) == [[0]]


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
    monkeypatch.setattr(channel, "time", clock)
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
    monkeypatch.setattr(channel, "CLOSE_SECONDS", 0.01)
    make_sender(engine).close()
    hanging.set()


def test_calls_carry_no_serial_number(engine: Engine) -> None:
    make_receiver(engine)
    assert engine.need_order is False


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

    monkeypatch.setattr(channel, "yr", SimpleNamespace(get=get))
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

    monkeypatch.setattr(channel, "yr", SimpleNamespace(get=get))
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


def test_sender_with_nothing_to_send_notices_that_the_engine_is_gone(engine: Engine) -> None:
    sender = make_sender(engine)
    sender.check()
    engine_repairs.engine_lost.set()
    try:
        with pytest.raises(ChannelError, match="the engine is gone"):
            sender.check()
    finally:
        engine_repairs.engine_lost.clear()


def test_attach_tells_why_it_waits_and_stops_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sender(*args: Any) -> None:
        raise ChannelError("no sender yet")

    monkeypatch.setattr(channel, "WindowReceiver", no_sender)
    said: list[str] = []
    ends = attach("127.0.0.1", "demo", "criteo", 0, lambda: len(said) == 3, said.append, 0.0)
    assert ends is None
    assert said == ["no sender yet"] * 3


def test_opening_waits_for_the_engine_but_not_for_a_sender_that_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Any] = [ChannelError("no engine"), "the end", ChannelInUse("taken")]

    def next_answer(*args: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(channel, "WindowSender", next_answer)
    said: list[str] = []

    def opened() -> Any:
        return open_channel("127.0.0.1", "demo", "criteo", 1, 10, lambda: False, said.append, 0.0)

    assert opened() == "the end"
    with pytest.raises(ChannelInUse, match="taken"):
        opened()
    assert said == ["no engine"]


def test_a_reason_is_logged_at_once_and_then_every_ten_seconds() -> None:
    now = [0.0]
    said: list[str] = []
    say = PacedLog(said.append, lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        say("no sender" if second < 20 else "no engine")
    assert said == ["no sender", "no sender", "no engine"]


def test_lost_engine_is_left_before_it_is_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(channel, "BaseChannel", lambda address: steps.append("join"))
    monkeypatch.setattr(channel, "finalize", lambda: steps.append("leave"))
    channel._join_engine("127.0.0.1")
    engine_repairs.engine_lost.set()
    channel._join_engine("127.0.0.1")
    channel._join_engine("127.0.0.1")
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

    monkeypatch.setattr(channel, "yr", SimpleNamespace(put=put))
    if message:
        with pytest.raises(ChannelError, match=message):
            channel._await_store()
    else:
        channel._await_store()
    assert not failures


def test_finalize_without_an_engine_does_nothing() -> None:
    finalize()
