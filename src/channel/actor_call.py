"""One call to the channel's actor: sent at once, its answer waited for.

The stock `Actor` holds one queue for each shard, in a process of the engine. Calls to it are
unordered (`need_order = False`). With the stock serial numbers an actor waits for each number, even
for ever: it may be lost, or used up by an earlier channel of the same name. Each end waits for an
answer before it makes the next call. A queue needs no other order.
"""

from __future__ import annotations

import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Callable

import mindpandas  # noqa: F401  (puts yr on the module path: it has to come first)
import yr
from yr.exception import YRError

from src.channel.engine import ChannelError, engine_errors, one_line
from src.channel.engine_repairs import engine_lost

GiveUp = Callable[[], bool]
"""Called during a wait; True ends the wait."""

POLL_SECONDS = 0.01
LONGEST_POLL_SECONDS = 0.05
# After this many time-outs an answer won't come. Until then the same call is waited for.
PATIENCE_FACTOR = 3


def never() -> bool:
    """A ``GiveUp`` that lets a wait go on."""
    return False


def pause(seconds: float, give_up: GiveUp) -> None:
    """Sleeps for so long, or until `give_up` returns True."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not give_up():
        time.sleep(min(left, LONGEST_POLL_SECONDS))


class ActorCall:
    """One call to the actor, under way. Its answer may be waited for again and again.

    Args:
        method: A method of the actor's proxy.
        args: The call's arguments.
        doing: What the call does; errors begin with it.
        timeout: Whole seconds after which an answer is late.

    Raises:
        ChannelError: The engine did not take the call.
    """

    def __init__(self, method: Any, *args: Any, doing: str, timeout: int) -> None:
        self._doing = doing
        self._timeout = timeout
        self._deadline = time.monotonic() + PATIENCE_FACTOR * timeout
        with engine_errors(doing):
            self._ref = method.invoke(*args)

    def answered(self, stop: GiveUp = never) -> bool:
        """Waits for the answer.

        Returns:
            True when it is there, False when `stop` returned True.

        Raises:
            ChannelError: No answer will come.
        """
        while True:
            # This waits for the local future: `yr.get` takes whole seconds only.
            try:
                self._ref.wait(timeout=LONGEST_POLL_SECONDS)
                return True
            except FutureTimeoutError:
                pass
            except (RuntimeError, TimeoutError, YRError) as error:
                raise ChannelError(f"{self._doing}: {one_line(error)}") from error
            if stop():
                return False
            if engine_lost.is_set():
                raise ChannelError(f"{self._doing}: the engine is gone")
            if time.monotonic() > self._deadline:
                engine_lost.set()
                seconds = PATIENCE_FACTOR * self._timeout
                raise ChannelError(f"{self._doing}: no answer within {seconds} s")

    def value(self) -> Any:
        """The answer, once ``answered`` has returned True."""
        with engine_errors(self._doing):
            return yr.get(self._ref, timeout=self._timeout)


class UnorderedActor:
    """Switches serial numbers off when a stock class sets `self.actor`."""

    _actor: Any = None

    @property
    def actor(self) -> Any:
        """The proxy of the channel's actor."""
        return self._actor

    @actor.setter
    def actor(self, proxy: Any) -> None:
        if proxy is not None:
            proxy.need_order = False
        self._actor = proxy
