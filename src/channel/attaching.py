"""Waiting for a channel: a sender waits for the engine, a receiver for its sender."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

from src.channel.actor_call import GiveUp, pause
from src.channel.engine import ChannelError, ChannelInUse
from src.channel.receiver import WindowReceiver
from src.channel.sender import WindowSender

End = TypeVar("End")

PACE_SECONDS = 10.0


class PacedLog:
    """Logs the first reason for waiting, then one every ten seconds: waiting may take days."""

    def __init__(
        self, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        self._logged_at: float | None = None

    def __call__(self, reason: str) -> None:
        """Takes a reason, as the ``on_wait`` of ``attach`` and ``open_channel``."""
        now = self._clock()
        if self._logged_at is None or now - self._logged_at >= PACE_SECONDS:
            self._logged_at = now
            self._log(reason)


def attach(
    address: str,
    namespace: str,
    dataset_name: str,
    shard_id: int,
    give_up: GiveUp,
    on_wait: Callable[[str], None],
    retry_seconds: float = 0.5,
) -> WindowReceiver | None:
    """Waits for a channel's sender and returns the receiving end of one shard.

    Args:
        address: IPv4 address of the engine's master.
        namespace: The channel's namespace.
        dataset_name: The channel's name in it.
        shard_id: Which queue to read.
        give_up: Called before each attempt and during each pause; True ends the wait.
        on_wait: Called with the reason, one line, after every attempt that failed.
        retry_seconds: Pause between attempts.

    Returns:
        The receiver, or None when `give_up` returned True.

    Raises:
        ValueError: A name is not allowed, or the channel has no such shard.
    """
    return _try_until(
        lambda: WindowReceiver(address, namespace, dataset_name, shard_id),
        give_up,
        on_wait,
        retry_seconds,
    )


def open_channel(
    make_sender: Callable[[], WindowSender],
    give_up: GiveUp,
    on_wait: Callable[[str], None],
    retry_seconds: float = 0.5,
) -> WindowSender | None:
    """Waits for the engine and returns the sending end of a new channel.

    Args:
        make_sender: Makes the sender; called until it succeeds.
        give_up: Called before each attempt and during each pause; True ends the wait.
        on_wait: Called with the reason, one line, after every attempt that failed.
        retry_seconds: Pause between attempts.

    Returns:
        The sender, or None when `give_up` returned True.

    Raises:
        ValueError: A name or a number is not allowed.
        ChannelInUse: A living sender has this channel.
    """
    return _try_until(make_sender, give_up, on_wait, retry_seconds)


def _try_until(
    make: Callable[[], End], give_up: GiveUp, on_wait: Callable[[str], None], retry_seconds: float
) -> End | None:
    """Tries to make an end of the channel until that works or `give_up` returns True."""
    while not give_up():
        try:
            return make()
        except ChannelInUse:
            raise
        except ChannelError as error:
            on_wait(str(error))
        pause(retry_seconds, give_up)
    return None
