"""The receiving end of one shard: MindPandas' DataReceiver, stoppable and re-attachable.

The stock class stays in use. Two things are added:

* stoppable: every wait calls `give_up` about every 50 ms, and none is endless;
* re-attachable: when its sender or the engine dies, a receiver raises `ChannelError`. The same
  process may then attach again.

Not promised: a receiver takes a window out of the queue before it returns it. A receiver that is
killed in between loses the window. Position, session ids and rewind make up for that: the consumer
sends the rows again.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import mindpandas  # noqa: F401  (puts yr on the module path: it has to come first)
import numpy as np
import yr
from mindpandas.channel import DataReceiver
from yr.exception import YRError

from src.channel.actor_call import (
    LONGEST_POLL_SECONDS,
    PATIENCE_FACTOR,
    POLL_SECONDS,
    ActorCall,
    GiveUp,
    UnorderedActor,
    never,
)
from src.channel.engine import ChannelError, check_name, engine_errors, join_engine, one_line
from src.channel.engine_repairs import engine_lost
from src.process.arrays import Array

FETCH_SECONDS = 1


class WindowReceiver(UnorderedActor, DataReceiver):  # type: ignore[misc]
    """A DataReceiver of one shard. `close` may be called while another thread receives.

    Args:
        address: IPv4 address of the engine's master.
        namespace: The channel's namespace.
        dataset_name: The channel's name in it.
        shard_id: Which queue to read.
        rpc_timeout_seconds: As for `WindowSender`.

    Raises:
        ValueError: A name is not allowed, or the channel has no such shard.
        ChannelError: The engine can't be reached, or no sender is there yet.
    """

    _popped: Any | None = None
    """The reference of a window whose rows are not fetched yet."""
    _fetch_until: float = 0.0

    def __init__(
        self,
        address: str,
        namespace: str,
        dataset_name: str,
        shard_id: int = 0,
        rpc_timeout_seconds: int = 10,
    ) -> None:
        check_name("namespace", namespace)
        check_name("dataset_name", dataset_name)
        self._timeout = rpc_timeout_seconds
        self._name = f"{namespace}/{dataset_name}"
        self._closed = False
        self._receiving = threading.Lock()
        self._request: ActorCall | None = None
        join_engine(address)
        with engine_errors(f"channel {self._name} is not there"):
            super().__init__(
                address=address,
                namespace=namespace,
                shard_id=shard_id,
                dataset_name=dataset_name,
            )
        if shard_id >= self.num_shards:
            raise ValueError(f"channel {self._name} has {self.num_shards} shards, not {shard_id}")

    @property
    def num_shards(self) -> int:
        """Number of shards the sender cuts a window into."""
        return int(self._num_shards)

    @property
    def shard_id(self) -> int:
        """The shard this end reads."""
        return int(self._shard_id)

    def receive(self, timeout_seconds: float, give_up: GiveUp = never) -> Array | None:
        """Takes the next window out of the queue.

        Args:
            timeout_seconds: How long to wait for one.
            give_up: Called during the wait; True ends it.

        Returns:
            The rows, in memory of this process, with the sender's dtype. None after the time-out,
            when `give_up` returned True, or when another thread closed this end. No window is lost
            then.

        Raises:
            ChannelError: The sender or the engine is gone, or this end was already closed.
        """
        if self._closed:
            raise ChannelError(f"channel {self._name} was closed")
        deadline = time.monotonic() + timeout_seconds

        def stop() -> bool:
            return self._closed or time.monotonic() >= deadline or give_up()

        pause = POLL_SECONDS / 2
        with self._receiving:
            while True:
                if self._popped is None:
                    self._popped = self._pop(stop)
                    self._fetch_until = time.monotonic() + PATIENCE_FACTOR * self._timeout
                window = None if self._popped is None else self._fetch(self._popped)
                if window is not None:
                    self._popped = None
                    return window
                if stop():
                    return None
                time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
                pause = min(2 * pause, LONGEST_POLL_SECONDS)

    def close(self) -> None:
        """Leaves the channel, which lives on. Idempotent."""
        self._closed = True

    def _pop(self, stop: GiveUp) -> Any | None:
        """Takes the reference of the queue's first window; None if there is none yet.

        A request whose answer is late stays under way. The next call waits for that same answer,
        since it may hold a window.
        """
        if self._request is None:
            doing = f"channel {self._name}, shard {self.shard_id}: get"
            self._request = ActorCall(
                self.actor.get, self.shard_id, doing=doing, timeout=self._timeout
            )
        if not self._request.answered(stop):
            return None
        ref = self._request.value()
        self._request = None
        return ref

    def _fetch(self, ref: Any) -> Array | None:
        """The rows of a window; None while the store does not find them.

        When the sender has died, the window is gone. The store then searches for it and holds the
        interpreter. So each call lasts at most a second, and a stop gets through in between.
        """
        try:
            window = yr.get(ref, timeout=FETCH_SECONDS)
        except (RuntimeError, TimeoutError, YRError) as error:
            if engine_lost.is_set() or time.monotonic() >= self._fetch_until:
                doing = f"channel {self._name}, shard {self.shard_id}: fetch"
                raise ChannelError(f"{doing}: {one_line(error)}") from error
            return None
        return np.array(window)  # a view would keep the store's memory from being freed
