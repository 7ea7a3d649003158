"""A stand-in for the yr engine and its one actor, and the channel's ends on it."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import SimpleNamespace
from typing import Any

from src.channel.receiver import WindowReceiver
from src.channel.sender import WindowSender


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
