"""Windows on the channel: NumPy structured arrays over MindPandas' DataSender and DataReceiver.

The stock ends and their stock `Actor` (one queue for each shard, in a process of the engine) stay
what is used; what is added is what a service needs:

* bounded: a shard's queue never holds more than `max_queue_size` windows;
* acknowledged: once `send_window` has returned True, the queue of every shard holds its rows;
* stoppable: every wait asks `give_up` at least every 50 ms or so, and none is endless;
* re-attachable: an end whose peer or channel died gets a `ChannelError` and may attach again, in
  the same process.

What is not promised: the channel lives in memory and dies with the process that sends; and a
receiver takes a window out of the queue before it hands it over, so a window that a dying receiver
had taken is gone with it. The position protocol (provenance in each row, session ids, skip and
rewind) makes up for both, by sending again.

Calls go to the actor unordered (`need_order = False`): the stock serial numbers make an actor wait
for ever for a number that was lost, or that an earlier channel of the same name used up. Each end
waits for its answer before it goes on, and that is all the order a queue needs.

The engine's client is thread-safe (futures and locks throughout), and so is each end: `receive` may
run in a pipeline's thread while the main thread calls `close`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Callable, TypeVar

import mindpandas  # noqa: F401  (puts yr on the module path: it has to come first)
import numpy as np
import numpy.typing as npt
import yr
from mindpandas.channel import BaseChannel, DataReceiver, DataSender
from yr.exception import YRError

from src.channel.engine_repairs import apply_repairs, engine_lost, leaving

logger = logging.getLogger(__name__)

GiveUp = Callable[[], bool]
Window = npt.NDArray[Any]
End = TypeVar("End")

# An answer that is late by this many time-outs won't come; until then the same call is waited for.
PATIENCE_FACTOR = 3
# A killed sender's channel vanishes within 3 s; one that is there for longer belongs to somebody.
VANISH_SECONDS = 5.0
POLL_SECONDS = 0.01
LONGEST_POLL_SECONDS = 0.05
STORE_FULL_PAUSE_SECONDS = 0.2
FETCH_SECONDS = 1
STORE_START_SECONDS = 15.0
# A live engine ends an actor in milliseconds; who closes a channel won't wait for a dead one.
CLOSE_SECONDS = 3.0
# The engine's client gives a store call that is under way when the engine dies a minute and ten
# seconds, in native code that holds the interpreter: the whole process stands still until then.
FREEZE_SECONDS = 75.0
PACE_SECONDS = 10.0


class ChannelError(RuntimeError):
    """The channel or its engine is gone, or was never there. The message is one line."""


class ChannelInUse(ChannelError):  # noqa: N818
    """Another, living sender has this channel: no wait will change that."""


def _never() -> bool:
    return False


def _one_line(error: BaseException) -> str:
    """What an error says: its first line, or the last one of a traceback from the actor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1 if lines[0].startswith("Traceback") else 0][:300]


@contextlib.contextmanager
def _engine_errors(doing: str) -> Iterator[None]:
    """Turns whatever the engine's client raises into a ChannelError."""
    try:
        yield
    except ChannelError:
        raise
    except (RuntimeError, TimeoutError, FutureTimeoutError, YRError) as error:
        raise ChannelError(f"{doing}: {_one_line(error)}") from error


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what} has to be a non-empty string, got {name!r}")
    if "-" in name or "/" in name:
        raise ValueError(f"{what} must not contain '-' or '/', got {name!r}")


class _Call:
    """One call to the actor, under way. Its answer may be waited for again and again."""

    def __init__(self, method: Any, *args: Any, doing: str, timeout: int) -> None:
        self._doing = doing
        self._timeout = timeout
        self._deadline = time.monotonic() + PATIENCE_FACTOR * timeout
        with _engine_errors(doing):
            self._ref = method.invoke(*args)

    def answered(self, stop: GiveUp = _never) -> bool:
        """Waits for the answer; False once `stop` says so. ChannelError if there'll be none."""
        while True:
            # Readiness is asked of the local future: `yr.get` knows whole seconds only.
            try:
                self._ref.wait(timeout=LONGEST_POLL_SECONDS)
                return True
            except FutureTimeoutError:
                pass
            except (RuntimeError, TimeoutError, YRError) as error:
                raise ChannelError(f"{self._doing}: {_one_line(error)}") from error
            if stop():
                return False
            if engine_lost.is_set():
                raise ChannelError(f"{self._doing}: the engine is gone")
            if time.monotonic() > self._deadline:
                engine_lost.set()
                seconds = PATIENCE_FACTOR * self._timeout
                raise ChannelError(f"{self._doing}: no answer within {seconds} s")

    def value(self) -> Any:
        """The answer of an answered call."""
        with _engine_errors(self._doing):
            return yr.get(self._ref, timeout=self._timeout)


class _UnorderedActor:
    """Takes the stock classes' `self.actor = ...` and switches the proxy's serial numbers off."""

    _actor: Any = None

    @property
    def actor(self) -> Any:
        return self._actor

    @actor.setter
    def actor(self, proxy: Any) -> None:
        if proxy is not None:
            proxy.need_order = False
        self._actor = proxy


class WindowSender(_UnorderedActor, DataSender):  # type: ignore[misc]
    """The sending end: owns the channel, which ends with this object or with its process.

    Guarantee: when `send_window` has returned True, each shard's queue holds its rows, in order.

    Args:
        address: IPv4 address of the engine's master.
        namespace: The channel's namespace, without '-' and '/'.
        dataset_name: The channel's name in it, without '-' and '/'.
        num_shards: Number of receivers, each with a queue of its own.
        max_queue_size: Windows that wait in a queue at most.
        rpc_timeout_seconds: Whole seconds after which an answer is late; three times that, and the
            channel counts as gone.

    Raises:
        ValueError: A name or a number is not admissible.
        ChannelInUse: A living sender already has this channel. What a dead sender left is waited
            for until the engine clears it; a channel that hangs is ended.
        ChannelError: No engine.
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
        _check_name("namespace", namespace)
        _check_name("dataset_name", dataset_name)
        self._timeout = rpc_timeout_seconds
        self._name = f"{namespace}/{dataset_name}"
        self._closed = False
        self._sending = threading.Lock()
        _join_engine(address)
        _await_store()
        _free_name(namespace, dataset_name, rpc_timeout_seconds)
        with _engine_errors(f"channel {self._name} could not be made"):
            super().__init__(
                address=address,
                namespace=namespace,
                num_shards=num_shards,
                dataset_name=dataset_name,
                max_queue_size=max_queue_size,
            )
        self._credits = [max_queue_size] * num_shards
        self.depth()  # the stock class does not notice that the engine could not make the actor

    def send_window(self, window: Window, give_up: GiveUp = _never) -> bool:
        """Puts rows [i * n / N, (i + 1) * n / N) of a window into the queue of shard i of N.

        Waits while queues are full; shards that have room are served first.

        Args:
            window: n rows, any dtype; n > 0 and a multiple of num_shards.
            give_up: Asked before each put and during every wait.

        Returns:
            True: every shard's queue holds its rows. False: `give_up` said so, and some of the
            shards may have got theirs.

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
        """Asks nobody and takes no time: for a sender that has nothing to send.

        Raises:
            ChannelError: The connection to the engine broke, or the channel was closed.
        """
        self._check_open()
        if engine_lost.is_set():
            raise ChannelError(f"channel {self._name}: the engine is gone")

    def depth(self) -> list[int]:
        """Number of windows that wait in the queue of each shard."""
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
            with _engine_errors("terminate"):
                self.actor.terminate()
        except ChannelError as error:
            logger.debug("channel %s was already gone: %s", self._name, error)

    def _put_parts(self, parts: dict[int, Window], give_up: GiveUp) -> bool:
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

    def _store(self, part: Window, give_up: GiveUp) -> Any | None:
        """Copies rows into the engine's store, waiting while that is full; None on `give_up`."""
        while not give_up():
            self._check_open()
            try:
                return yr.put(part)
            except (RuntimeError, TimeoutError) as error:
                if "Out of memory" not in str(error):
                    raise ChannelError(f"channel {self._name}: {_one_line(error)}") from error
            logger.debug("channel %s: the engine's store is full", self._name)
            time.sleep(STORE_FULL_PAUSE_SECONDS)
        return None

    def _await_credit(self, shards: list[int], give_up: GiveUp) -> bool:
        """Waits until at least one of the shards has room; False on `give_up`."""
        pause = POLL_SECONDS
        while not give_up():
            calls = self._ask_sizes(shards)
            for shard, call in calls.items():
                if not call.answered(give_up):
                    return False
                self._credits[shard] = self.max_queue_size - int(call.value())
            if any(self._credits[shard] > 0 for shard in shards):
                return True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)
        return False

    def _ask_sizes(self, shards: Any) -> dict[int, _Call]:
        method = self.actor.get_queue_size
        return {shard: self._call(method, shard, doing=f"shard {shard}: size") for shard in shards}

    def _call(self, method: Any, *args: Any, doing: str) -> _Call:
        self._check_open()
        doing = f"channel {self._name}, {doing}"
        return _Call(method, *args, doing=doing, timeout=self._timeout)

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelError(f"channel {self._name} was closed")


def _join_engine(address: str) -> None:
    """Joins the engine, anew if this process has lost it."""
    apply_repairs()
    if engine_lost.is_set():
        finalize()
        engine_lost.clear()
    with _engine_errors(f"the engine at {address} can't be reached"):
        BaseChannel(address=address)


def _await_store() -> None:
    """Waits for the engine's store, which is ready some seconds later than the engine."""
    deadline = time.monotonic() + STORE_START_SECONDS
    while True:
        try:
            yr.put(0)
            return
        except RuntimeError as error:
            if "not ready" not in str(error) or time.monotonic() > deadline:
                raise ChannelError(
                    f"the engine's store is not ready: {_one_line(error)}"
                ) from error
        time.sleep(STORE_FULL_PAUSE_SECONDS)


def _free_name(namespace: str, dataset_name: str, timeout: int) -> None:
    """Makes sure that nobody has this channel: waits out a dead one, ends one that hangs."""
    if _vanished(namespace, dataset_name):
        return
    name = f"channel {namespace}/{dataset_name}"
    with _engine_errors(name):
        proxy = yr.get_instance(name=dataset_name, namespace=namespace)
    if _responds(proxy, timeout):
        raise ChannelInUse(f"{name} already exists: another sender is using it")
    logger.warning("%s does not respond, it is ended", name)
    with _engine_errors(f"{name} hangs and can't be ended"):
        proxy.terminate()
    if not _vanished(namespace, dataset_name):
        raise ChannelError(f"{name} hangs and can't be ended")


def _responds(proxy: Any, timeout: int) -> bool:
    proxy.need_order = False
    deadline = time.monotonic() + timeout
    try:
        call = _Call(proxy.get_num_shards, doing="probe", timeout=timeout)
        return call.answered(lambda: time.monotonic() > deadline)
    except ChannelError:
        return False


def _vanished(namespace: str, dataset_name: str) -> bool:
    """Whether no such channel exists, or the one there is goes away by itself."""
    deadline = time.monotonic() + VANISH_SECONDS
    while time.monotonic() < deadline:
        try:
            yr.get_instance(name=dataset_name, namespace=namespace)
        except (RuntimeError, TimeoutError):
            return True
        time.sleep(0.25)
    return False


class WindowReceiver(_UnorderedActor, DataReceiver):  # type: ignore[misc]
    """The receiving end of one shard.

    Args:
        address: IPv4 address of the engine's master.
        namespace: The channel's namespace.
        dataset_name: The channel's name in it.
        shard_id: Which queue to read.
        rpc_timeout_seconds: As for `WindowSender`.

    Raises:
        ValueError: A name is not admissible, or the channel has no such shard.
        ChannelError: No engine, or no sender yet.
    """

    _popped: Any | None = None
    """A window taken out of the queue whose rows are not here yet."""
    _fetch_until: float = 0.0

    def __init__(
        self,
        address: str,
        namespace: str,
        dataset_name: str,
        shard_id: int = 0,
        rpc_timeout_seconds: int = 10,
    ) -> None:
        _check_name("namespace", namespace)
        _check_name("dataset_name", dataset_name)
        self._timeout = rpc_timeout_seconds
        self._name = f"{namespace}/{dataset_name}"
        self._closed = False
        self._receiving = threading.Lock()
        self._request: _Call | None = None
        _join_engine(address)
        with _engine_errors(f"channel {self._name} is not there"):
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

    def receive(self, timeout_seconds: float, give_up: GiveUp = _never) -> Window | None:
        """Takes the next window out of the queue.

        Args:
            timeout_seconds: How long to wait for one.
            give_up: Asked during the wait.

        Returns:
            The rows, in memory of this process, with the sender's dtype; None after the time-out,
            when `give_up` says so, or when another thread closes this end. No window is lost by
            returning None.

        Raises:
            ChannelError: The sender or the engine is gone, or this end was closed before.
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
        """Leaves the channel, which goes on. Idempotent."""
        self._closed = True

    def _pop(self, stop: GiveUp) -> Any | None:
        """One look at the queue: the reference of its first window, or None.

        A look whose answer is late stays under way, and the next call waits for that same answer:
        it may hold a window.
        """
        if self._request is None:
            doing = f"channel {self._name}, shard {self.shard_id}: get"
            args = (self.actor.get, self.shard_id)
            self._request = _Call(*args, doing=doing, timeout=self._timeout)
        if not self._request.answered(stop):
            return None
        ref = self._request.value()
        self._request = None
        return ref

    def _fetch(self, ref: Any) -> Window | None:
        """The rows of a window; None while the store does not find them.

        Where the sender has died the window is gone, and the store looks for it with the
        interpreter held: it is asked for a second at a time, so that a stop gets through.
        """
        try:
            window = yr.get(ref, timeout=FETCH_SECONDS)
        except (RuntimeError, TimeoutError, YRError) as error:
            if engine_lost.is_set() or time.monotonic() >= self._fetch_until:
                doing = f"channel {self._name}, shard {self.shard_id}: fetch"
                raise ChannelError(f"{doing}: {_one_line(error)}") from error
            return None
        return np.array(window)  # the store's memory is freed when its last view is


class PacedLog:
    """Logs the first reason and then one every ten seconds: waiting may take days."""

    def __init__(self, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._log = log
        self._clock = clock
        self._said_at: float | None = None

    def __call__(self, reason: str) -> None:
        """Takes a reason for waiting, as ``attach`` and ``open_channel`` give it."""
        now = self._clock()
        if self._said_at is None or now - self._said_at >= PACE_SECONDS:
            self._said_at = now
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
        give_up: Asked before each attempt and during each pause; True ends the wait.
        on_wait: Gets the reason, one line, after every attempt that failed.
        retry_seconds: Pause between attempts.

    Returns:
        The receiver, or None when `give_up` said so.

    Raises:
        ValueError: A name is not admissible, or the channel has no such shard.
    """
    arguments = (address, namespace, dataset_name, shard_id)
    return _try_until(lambda: WindowReceiver(*arguments), give_up, on_wait, retry_seconds)


def open_channel(
    address: str,
    namespace: str,
    dataset_name: str,
    num_shards: int,
    max_queue_size: int,
    give_up: GiveUp,
    on_wait: Callable[[str], None],
    retry_seconds: float = 0.5,
) -> WindowSender | None:
    """Waits for the engine and returns the sending end of a new channel.

    Args:
        address: IPv4 address of the engine's master.
        namespace: The channel's namespace.
        dataset_name: The channel's name in it.
        num_shards: Number of receivers.
        max_queue_size: Windows that wait in a queue at most.
        give_up: Asked before each attempt and during each pause; True ends the wait.
        on_wait: Gets the reason, one line, after every attempt that failed.
        retry_seconds: Pause between attempts.

    Returns:
        The sender, or None when `give_up` said so.

    Raises:
        ValueError: A name or a number is not admissible.
        ChannelInUse: A living sender has this channel.
    """
    arguments = (address, namespace, dataset_name, num_shards, max_queue_size)
    return _try_until(lambda: WindowSender(*arguments), give_up, on_wait, retry_seconds)


def _try_until(
    make: Callable[[], End], give_up: GiveUp, on_wait: Callable[[str], None], retry_seconds: float
) -> End | None:
    """Makes an end of the channel, again and again until that works or `give_up` says so."""
    while not give_up():
        try:
            return make()
        except ChannelInUse:
            raise
        except ChannelError as error:
            on_wait(str(error))
        deadline = time.monotonic() + retry_seconds
        while time.monotonic() < deadline and not give_up():
            time.sleep(LONGEST_POLL_SECONDS)
    return None


def engine_is_lost() -> bool:
    """Whether this process has lost the engine and not joined it again since."""
    return engine_lost.is_set()


def finalize() -> None:
    """Leaves the engine, if this process ever joined it. Never raises; idempotent."""
    if not yr.is_initialized():
        return
    leaving()
    try:
        yr.finalize()
    except Exception as error:  # noqa: BLE001  (the process is ending: nothing else can be done)
        logger.debug("leaving the engine: %s", _one_line(error))
