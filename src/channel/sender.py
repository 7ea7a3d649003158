"""The sending end of a channel: MindPandas' DataSender, bounded and acknowledged.

The stock class and its stock `Actor` stay in use. Three things are added:

* bounded: a shard's queue never holds more than `max_queue_size` windows;
* acknowledged: once `send_window` has returned True, the queue of every shard holds its rows;
* stoppable: every wait calls `give_up` about every 50 ms, and none is endless.

Not promised: the channel lives in memory, and dies with the process that sends. Position, session
ids and rewind make up for that: the consumer sends the rows again.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import mindpandas  # noqa: F401  (puts yr on the module path: it has to come first)
import yr
from mindpandas.channel import DataSender

from src.channel.actor_call import (
    LONGEST_POLL_SECONDS,
    POLL_SECONDS,
    ActorCall,
    GiveUp,
    UnorderedActor,
    never,
    pause,
)
from src.channel.engine import (
    STORE_PAUSE_SECONDS,
    ChannelError,
    ChannelInUse,
    await_store,
    check_name,
    engine_errors,
    join_engine,
    one_line,
)
from src.channel.engine_repairs import engine_lost
from src.process.arrays import Array

logger = logging.getLogger(__name__)

# A killed sender's channel vanishes within 3 s. One that stays is in use or hangs.
VANISH_SECONDS = 5.0
# A live engine ends an actor in milliseconds; closing does not wait for a dead one.
CLOSE_SECONDS = 3.0


class WindowSender(UnorderedActor, DataSender):  # type: ignore[misc]
    """A DataSender that owns the channel, which ends with this object or with its process.

    Guarantee: when `send_window` has returned True, each shard's queue holds its rows, in order.
    Any thread may call any method.

    Args:
        address: IPv4 address of the engine's master.
        namespace: The channel's namespace, without '-' and '/'.
        dataset_name: The channel's name in it, without '-' and '/'.
        num_shards: Number of receivers; each has its own queue.
        max_queue_size: The most windows that wait in a queue.
        rpc_timeout_seconds: Whole seconds after which an answer is late. After three times as
            long, the channel counts as gone.

    Raises:
        ValueError: A name or a number is not allowed.
        ChannelInUse: A living sender already has this channel. A dead sender's channel is waited
            for until the engine clears it. A channel that hangs is ended.
        ChannelError: The engine can't be reached.
    """

    def __init__(
        self,
        address: str,
        namespace: str,
        dataset_name: str,
        num_shards: int,
        max_queue_size: int = 10,
        rpc_timeout_seconds: int = 10,
    ) -> None:
        check_name("namespace", namespace)
        check_name("dataset_name", dataset_name)
        self._timeout = rpc_timeout_seconds
        self._name = f"{namespace}/{dataset_name}"
        self._closed = False
        self._sending = threading.Lock()
        join_engine(address)
        await_store()
        _free_name(namespace, dataset_name, rpc_timeout_seconds)
        with engine_errors(f"channel {self._name} could not be made"):
            super().__init__(
                address=address,
                namespace=namespace,
                num_shards=num_shards,
                dataset_name=dataset_name,
                max_queue_size=max_queue_size,
            )
        self._credits = [max_queue_size] * num_shards
        self.depth()  # the stock class does not notice that the engine could not make the actor

    def send_window(self, window: Array, give_up: GiveUp = never) -> bool:
        """Puts rows [i * n / N, (i + 1) * n / N) of a window into the queue of shard i of N.

        Waits while queues are full. Shards that have room are served first.

        Args:
            window: n rows, any dtype; n > 0 and a multiple of num_shards.
            give_up: Called before each put and during every wait.

        Returns:
            True: every shard's queue holds its rows. False: `give_up` returned True, and some of
            the shards may have their rows.

        Raises:
            ValueError: n is 0 or not a multiple of num_shards.
            ChannelError: The channel or the engine is gone, or the channel was closed.
        """
        if len(window) == 0 or len(window) % self.num_shards:
            raise ValueError(f"{len(window)} rows can't be cut into {self.num_shards} shards")
        size = len(window) // self.num_shards
        with self._sending:
            waiting = list(range(self.num_shards))
            while True:
                ready = [shard for shard in waiting if self._credits[shard] > 0]
                parts = {shard: window[shard * size : (shard + 1) * size] for shard in ready}
                if not self._put_parts(parts, give_up):
                    return False
                waiting = [shard for shard in waiting if shard not in parts]
                if not waiting:
                    return True
                if not self._await_credit(waiting, give_up):
                    return False

    def check(self) -> None:
        """Checks the connection while there is nothing to send. Makes no call and takes no time.

        Raises:
            ChannelError: The connection to the engine broke, or the channel was closed.
        """
        self._check_open()
        if engine_lost.is_set():
            raise ChannelError(f"channel {self._name}: the engine is gone")

    def depth(self) -> list[int]:
        """The number of windows that wait in each shard's queue."""
        calls = self._ask_sizes(range(self.num_shards))
        for call in calls.values():
            call.answered()
        return [int(call.value()) for call in calls.values()]

    def close(self) -> None:
        """Ends the channel; receivers see it at once. Windows still queued are dropped."""
        if self._closed:
            return
        self._closed = True
        ending = threading.Thread(target=self._terminate, name="channel-close", daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)

    def _terminate(self) -> None:
        try:
            with engine_errors("terminate"):
                self.actor.terminate()
        except ChannelError as error:
            logger.debug("channel %s was already gone: %s", self._name, error)

    def _put_parts(self, parts: dict[int, Array], give_up: GiveUp) -> bool:
        """Stores and queues one part for each shard, then waits until all are acknowledged."""
        calls = []
        for shard, part in parts.items():
            ref = self._store(part, give_up)
            if ref is None:
                return False
            calls.append(self._call(self.actor.put, [ref], shard, doing=f"shard {shard}: put"))
            self._credits[shard] -= 1
        for call in calls:
            if not call.answered(give_up):
                return False
            call.value()
        return True

    def _store(self, part: Array, give_up: GiveUp) -> Any | None:
        """Copies rows into the engine's store and waits while it is full; None on `give_up`."""
        while not give_up():
            self._check_open()
            try:
                return yr.put(part)
            except (RuntimeError, TimeoutError) as error:
                if "Out of memory" not in str(error):
                    raise ChannelError(f"channel {self._name}: {one_line(error)}") from error
            logger.debug("channel %s: the engine's store is full", self._name)
            pause(STORE_PAUSE_SECONDS, give_up)
        return None

    def _await_credit(self, shards: list[int], give_up: GiveUp) -> bool:
        """Waits until at least one of the shards has room; False on `give_up`.

        Each question costs the engine some 5 ms of computing time. So the pause between two of them
        is about as long as the wait up to now. A queue of many windows does not run empty in it.
        """
        seconds, longest = POLL_SECONDS, LONGEST_POLL_SECONDS * self.max_queue_size
        while not give_up():
            calls = self._ask_sizes(shards)
            for shard, call in calls.items():
                if not call.answered(give_up):
                    return False
                self._credits[shard] = self.max_queue_size - int(call.value())
            if any(self._credits[shard] > 0 for shard in shards):
                return True
            pause(seconds, give_up)
            seconds = min(2 * seconds, longest)
        return False

    def _ask_sizes(self, shards: Any) -> dict[int, ActorCall]:
        method = self.actor.get_queue_size
        return {shard: self._call(method, shard, doing=f"shard {shard}: size") for shard in shards}

    def _call(self, method: Any, *args: Any, doing: str) -> ActorCall:
        self._check_open()
        doing = f"channel {self._name}, {doing}"
        return ActorCall(method, *args, doing=doing, timeout=self._timeout)

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelError(f"channel {self._name} was closed")


def _free_name(namespace: str, dataset_name: str, timeout: int) -> None:
    """Makes sure that the channel's name is free.

    Waits until a dead sender's channel is gone, and ends a channel that hangs.
    """
    if _vanished(namespace, dataset_name):
        return
    name = f"channel {namespace}/{dataset_name}"
    with engine_errors(name):
        proxy = yr.get_instance(name=dataset_name, namespace=namespace)
    if _responds(proxy, timeout):
        raise ChannelInUse(f"{name} already exists: another sender is using it")
    logger.warning("%s does not respond, it is ended", name)
    with engine_errors(f"{name} hangs and can't be ended"):
        proxy.terminate()
    if not _vanished(namespace, dataset_name):
        raise ChannelError(f"{name} hangs and can't be ended")


def _responds(proxy: Any, timeout: int) -> bool:
    proxy.need_order = False
    deadline = time.monotonic() + timeout
    try:
        call = ActorCall(proxy.get_num_shards, doing="probe", timeout=timeout)
        return call.answered(lambda: time.monotonic() > deadline)
    except ChannelError:
        return False


def _vanished(namespace: str, dataset_name: str) -> bool:
    """Whether no such channel exists, or the existing one goes away by itself."""
    deadline = time.monotonic() + VANISH_SECONDS
    while time.monotonic() < deadline:
        try:
            yr.get_instance(name=dataset_name, namespace=namespace)
        except (RuntimeError, TimeoutError):
            return True
        time.sleep(0.25)
    return False
