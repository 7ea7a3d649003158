"""``channel``: windows of equal content through MindPandas' channel, from process to process.

The limit is the engine's own rate of calls. A window takes at least one call of the sender and one
of the receiver. So both processes call a method that does nothing, at the same time, and the rate
of one process is the limit.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Callable

import numpy as np
from mindpandas.channel import DataSender

from benchmarks.processes.drain import NAMESPACE, Drain, call_actor
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.stages.feed import make_windows
from benchmarks.timing import alternate, medians
from src.channel.engine import finalize
from src.channel.sender import WindowSender
from src.process.arrays import Array

OWN_WINDOWS = 100
STOCK_WINDOWS = 20
CALLS = 200


def run(settings: Settings) -> list[Result]:
    """Measures windows/s."""
    size = settings.windows[0]
    windows = make_windows(replace(settings, rows=OWN_WINDOWS * size))
    name = uuid.uuid4().hex[:8]
    own = WindowSender(settings.address, NAMESPACE, f"own_{name}", 1)
    stock = DataSender(
        address=settings.address, namespace=NAMESPACE, num_shards=1, dataset_name=f"stock_{name}"
    )
    try:
        with (
            Drain(settings.address, f"own_{name}", is_stock=False) as own_drain,
            Drain(settings.address, f"stock_{name}", is_stock=True) as stock_drain,
        ):
            check_equal(windows[:3], own.send_window, own_drain)
            check_equal(windows[:3], stock.send, stock_drain)
            ways = {
                "documented": lambda: _rate(windows[:STOCK_WINDOWS], stock.send, stock_drain),
                "ours": lambda: _rate(windows, own.send_window, own_drain),
                "limit": lambda: _call_rate(own, own_drain),
            }
            median = medians(alternate(ways, settings.repeats, "channel"))
    finally:
        own.close()
        stock.actor.terminate()
        finalize()
    return [Result.of_medians("channel", "windows/s", median)]


def check_equal(windows: Sequence[Array], send: Callable[[Array], Any], drain: Drain) -> None:
    """Fails unless the received windows equal the sent ones."""
    drain.expect(sum(map(len, windows)), keep=True)
    for window in windows:
        send(window)
    for sent, received in zip(windows, drain.drained().windows):
        np.testing.assert_array_equal(received, sent)


def _rate(windows: Sequence[Array], send: Callable[[Array], Any], drain: Drain) -> float:
    drain.expect(sum(map(len, windows)))
    began = time.monotonic()
    for window in windows:
        send(window)
    return len(windows) / (drain.drained().ended - began)


def _call_rate(sender: WindowSender, drain: Drain) -> float:
    began = time.monotonic()
    drain.call_the_actor(CALLS)
    call_actor(sender, CALLS)
    ended = time.monotonic()
    return CALLS / (max(ended, drain.called()) - began)
