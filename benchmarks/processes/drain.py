"""A process at the other end of a channel that takes windows as fast as they come."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Callable

from src.channel.attaching import attach
from src.channel.engine import finalize
from src.channel.receiver import WindowReceiver
from src.process.logs import configure_logging

NAMESPACE = "bench"
ANSWER_SECONDS = 120.0
RECEIVE_SECONDS = 1.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Drained:
    """The windows of one measurement.

    Attributes:
        ended: When the last row arrived, on the machine's monotonic clock, s.
        windows: The windows, where they were requested.
    """

    ended: float
    windows: Sequence[Any]


class Drain:
    """The process; it attaches to a sender that exists already.

    Args:
        address: The yr engine's.
        dataset_name: The channel's name.
        is_stock: Whether to use MindPandas' own DataReceiver.
    """

    def __init__(self, address: str, dataset_name: str, is_stock: bool) -> None:
        processes = multiprocessing.get_context("spawn")
        self._pipe, theirs = processes.Pipe()
        self._process = processes.Process(
            target=_drain, args=(theirs, address, dataset_name, is_stock), daemon=True
        )
        self._process.start()
        theirs.close()
        self._answer()

    def expect(self, rows: int, keep: bool = False) -> None:
        """Makes the process take this number of rows."""
        self._pipe.send(("take", rows, keep))

    def drained(self) -> Drained:
        """Waits for the expected rows."""
        drained: Drained = self._answer()
        return drained

    def call_the_actor(self, times: int) -> None:
        """Makes the process call a method of the channel's actor that does almost nothing."""
        self._pipe.send(("call", times))

    def called(self) -> float:
        """Waits for the calls; returns when the last one was answered, monotonic s."""
        return float(self._answer())

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(("end",))
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Drain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self) -> Any:
        if not self._pipe.poll(ANSWER_SECONDS):
            raise TimeoutError(f"no rows came through the channel for {ANSWER_SECONDS:.0f} s")
        return self._pipe.recv()


def call_actor(end: Any, times: int) -> None:
    """Asks a channel's actor for its number of shards, one call after the other."""
    import yr  # mindpandas puts it on the module path

    for _ in range(times):
        yr.get(end.actor.get_num_shards.invoke())


def _drain(pipe: Connection, address: str, dataset_name: str, is_stock: bool) -> None:
    configure_logging(logging.WARNING)
    receiver = _stock_receiver(address, dataset_name) if is_stock else _own(address, dataset_name)
    receive = receiver.recv if is_stock else lambda: receiver.receive(RECEIVE_SECONDS)
    pipe.send("attached")
    while (command := pipe.recv())[0] != "end":
        if command[0] == "take":
            pipe.send(_take(receive, *command[1:]))
        else:
            call_actor(receiver, command[1])
            pipe.send(time.monotonic())
    finalize()


def _take(receive: Callable[[], Any], rows: int, keep: bool) -> Drained:
    windows, taken = [], 0
    while taken < rows:
        window = receive()
        if window is not None:
            taken += len(window)
            if keep:
                windows.append(window)
    return Drained(time.monotonic(), windows)


def _own(address: str, dataset_name: str) -> WindowReceiver:
    receiver = attach(address, NAMESPACE, dataset_name, 0, lambda: False, logging.debug)
    assert receiver is not None  # it is None only after a request to stop
    return receiver


def _stock_receiver(address: str, dataset_name: str) -> Any:
    from mindpandas.channel import DataReceiver

    return DataReceiver(address=address, namespace=NAMESPACE, dataset_name=dataset_name)
