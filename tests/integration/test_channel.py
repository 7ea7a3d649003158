"""The channel over a real engine. Each end lives in a process of its own, driven from the test.

Run as a script, this file is such a process: it serves the actions below to the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Callable

import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1"
NAMESPACE = "channeltest"
ROW = np.dtype(
    [("id", "i4", (39,)), ("weight", "f4", (39,)), ("label", "f4"), ("stripe", "i8", (2, 2))]
)

# --- in the process of an end --------------------------------------------------------------------


def make_windows(first: int, count: int, rows: int) -> npt.NDArray[Any]:
    """Windows `first` .. `first + count - 1` one after the other; the same ones in any process."""
    windows = np.zeros((count, rows), ROW)
    for index in range(count):
        random = np.random.default_rng(first + index)
        windows[index]["id"] = random.integers(0, 1 << 20, (rows, 39))
        windows[index]["weight"] = random.random((rows, 39))
        windows[index]["label"] = random.integers(0, 2, rows)
        windows[index]["stripe"][:, 0, 0] = np.arange(rows)
        windows[index]["stripe"][:, 1, 1] = first + index
    return windows


class Actions:
    """What a test can ask of an end's process."""

    def __init__(self) -> None:
        self.end: Any = None

    def open_sender(self, name: str, shards: int, queue: int = 10) -> None:
        from src.channel.sender import WindowSender

        self.end = WindowSender(ADDRESS, NAMESPACE, name, shards, max_queue_size=queue)

    def open_receiver(self, name: str, shard: int = 0, address: str = ADDRESS) -> int:
        from src.channel.receiver import WindowReceiver

        self.end = WindowReceiver(address, NAMESPACE, name, shard)
        return int(self.end.num_shards)

    def attach(self, name: str, shard: int = 0, seconds: float = 30.0) -> list[str]:
        """Returns what `on_wait` got."""
        from src.channel.attaching import attach

        said: list[str] = []
        deadline = time.monotonic() + seconds
        expired: Callable[[], bool] = lambda: time.monotonic() > deadline  # noqa: E731
        self.end = attach(ADDRESS, NAMESPACE, name, shard, expired, said.append)
        if self.end is None:
            said.append("gave up")
        return said

    def send(self, first: int, count: int, rows: int, give_up_after: float = 60.0) -> int:
        """Returns how many windows were sent before giving up."""
        deadline = time.monotonic() + give_up_after
        for sent, window in enumerate(make_windows(first, count, rows)):
            if not self.end.send_window(window, lambda: time.monotonic() > deadline):
                return sent
        return count

    def receive(self, count: int, timeout: float = 20.0, pause: float = 0.0) -> list[Any]:
        """Returns up to `count` windows; fewer when one did not come within the time-out."""
        windows: list[Any] = []
        while len(windows) < count:
            window = self.end.receive(timeout)
            if window is None:
                break
            windows.append(window)
            time.sleep(pause)
        return windows

    def depth(self) -> list[int]:
        return list(self.end.depth())

    def owns_its_memory(self) -> bool:
        window = self.end.receive(20.0)
        return bool(window.flags.owndata and window.flags.writeable)

    def close(self) -> None:
        self.end.close()
        self.end.close()  # twice is as good as once

    def leave(self) -> None:
        from src.channel.engine import finalize

        finalize()
        finalize()

    def count_calls_kept(self, calls: int) -> tuple[int, int, int]:
        """Callbacks kept, futures kept and KB grown after that many receives from no data."""
        import yr.runtime.runtime
        from fnruntime.rpc.sdk import RPClient

        self.receive(1, timeout=0.5)
        before = resident_kb()
        for _ in range(calls):
            assert self.end._pop(lambda: False) is None
        manager = yr.runtime.runtime.Runtime().rt.task_mgr
        grown = resident_kb() - before
        return len(RPClient()._invoke_callback), len(manager._TaskManager__futures), grown


def resident_kb() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def serve(connection: Connection) -> None:
    import src.channel.attaching  # noqa: F401  (takes 2 s, while the test starts the other ends)

    actions = Actions()
    while True:
        try:
            name, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, getattr(actions, name)(*args, **kwargs)))
        except Exception as error:
            traceback.print_exc()
            connection.send((False, f"{type(error).__name__}: {error}"))


# --- in the test's process -----------------------------------------------------------------------


class EndError(Exception):
    """An action failed; the text is 'Type: message' of the exception over there."""


class End:
    """An end's process."""

    def __init__(self, folder: Path) -> None:
        path = str(folder / uuid.uuid4().hex[:12])
        with Listener(path, family="AF_UNIX") as listener:
            self.process = subprocess.Popen([sys.executable, __file__, path], cwd=ROOT)
            self.connection = listener.accept()

    def begin(self, action: str, *args: Any, **kwargs: Any) -> None:
        self.connection.send((action, args, kwargs))

    def result(self, timeout: float = 60.0) -> Any:
        assert self.connection.poll(timeout), f"no result within {timeout} s"
        ok, value = self.connection.recv()
        if not ok:
            raise EndError(value)
        return value

    def do(self, action: str, *args: Any, **kwargs: Any) -> Any:
        self.begin(action, *args, **kwargs)
        return self.result()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.connection.close()

    def finish(self) -> int:
        """Lets the process end by itself; returns its exit code."""
        self.connection.close()
        return self.process.wait(10)


pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def new_end(tmp_path: Path) -> Iterator[Callable[[], End]]:
    ends: list[End] = []

    def start() -> End:
        ends.append(End(tmp_path))
        return ends[-1]

    yield start
    for end in ends:
        if end.process.poll() is None:
            end.kill()
        end.connection.close()


@pytest.fixture
def name() -> str:
    return "c" + uuid.uuid4().hex[:10]


def stripes(windows: npt.NDArray[Any], shard: int, shards: int) -> npt.NDArray[Any]:
    size = windows.shape[1] // shards
    return windows[:, shard * size : (shard + 1) * size]


@pytest.mark.parametrize("shards", [1, 3])
def test_every_shard_gets_its_rows_of_every_window_intact_and_in_order(
    new_end: Callable[[], End], name: str, shards: int
) -> None:
    sender, receivers = new_end(), [new_end() for _ in range(shards)]
    sender.do("open_sender", name, shards)
    for shard, receiver in enumerate(receivers):
        receiver.begin("open_receiver", name, shard)
    assert [receiver.result() for receiver in receivers] == [shards] * shards
    for receiver in receivers:
        receiver.begin("receive", 25)
    assert sender.do("send", 0, 25, 30) == 25
    for shard, receiver in enumerate(receivers):
        got = np.stack(receiver.result())
        assert got.dtype == ROW
        assert got.tobytes() == stripes(make_windows(0, 25, 30), shard, shards).tobytes()


def test_queue_is_bounded_and_a_slow_receiver_loses_nothing(
    new_end: Callable[[], End], name: str
) -> None:
    sender, receiver = new_end(), new_end()
    sender.do("open_sender", name, 1, queue=3)
    receiver.do("open_receiver", name)
    assert sender.do("send", 0, 20, 10, give_up_after=1.0) == 3
    assert sender.do("depth") == [3]
    sender.begin("send", 3, 17, 10)
    got = np.stack(receiver.do("receive", 20, pause=0.1))
    assert sender.result() == 17
    assert got.tobytes() == make_windows(0, 20, 10).tobytes()
    assert receiver.do("receive", 1, timeout=0.2) == []


def test_full_queue_gives_way_at_once_and_does_not_hold_up_other_shards(
    new_end: Callable[[], End], name: str
) -> None:
    sender, receiver = new_end(), new_end()
    sender.do("open_sender", name, 2, queue=2)
    receiver.do("open_receiver", name, 1)
    assert sender.do("send", 0, 2, 10) == 2
    assert len(receiver.do("receive", 2)) == 2
    started = time.monotonic()
    assert sender.do("send", 2, 1, 10, give_up_after=0.5) == 0  # nobody reads shard 0
    assert time.monotonic() - started < 2.0
    assert sender.do("depth") == [2, 1]
    (window,) = receiver.do("receive", 1)
    assert window.tobytes() == stripes(make_windows(2, 1, 10), 1, 2).tobytes()
    assert receiver.do("attach", name, 0) == []  # the same process changes to the other shard
    assert receiver.do("owns_its_memory")
    assert receiver.do("receive", 1)[0]["stripe"][0, 1, 1] == 1


def test_receiver_waits_for_its_sender_and_sees_it_close(
    new_end: Callable[[], End], name: str
) -> None:
    sender, receiver = new_end(), new_end()
    with pytest.raises(EndError, match="ChannelError: .*not there"):
        receiver.do("open_receiver", name)
    assert receiver.do("attach", name, seconds=0.2)[-1] == "gave up"
    receiver.begin("attach", name)
    sender.do("open_sender", name, 1)
    said = receiver.result()
    assert said and all("not there" in line and "\n" not in line for line in said)
    with pytest.raises(EndError, match="ValueError: .*1 shards, not 1"):
        new_end().do("open_receiver", name, 1)
    receiver.begin("receive", 1)
    sender.do("close")
    with pytest.raises(EndError, match="ChannelError"):
        receiver.result(timeout=5)
    for end in (sender, receiver):
        end.do("leave")
        assert end.finish() == 0


def test_receiver_outlives_a_killed_sender_and_attaches_to_the_next_one(
    new_end: Callable[[], End], name: str
) -> None:
    receiver, sender = new_end(), new_end()
    sender.do("open_sender", name, 1)
    receiver.do("attach", name)
    assert sender.do("send", 0, 3, 10) == 3
    assert len(receiver.do("receive", 3)) == 3
    receiver.begin("receive", 1, timeout=30.0)
    sender.kill()
    killed = time.monotonic()
    with pytest.raises(EndError, match="ChannelError"):
        receiver.result(timeout=10)
    assert time.monotonic() - killed < 10
    receiver.begin("attach", name)
    sender = new_end()
    sender.do("open_sender", name, 1)
    receiver.result()
    assert sender.do("send", 50, 5, 10) == 5
    assert np.stack(receiver.do("receive", 5)).tobytes() == make_windows(50, 5, 10).tobytes()


def test_new_receiver_goes_on_where_a_killed_one_was(new_end: Callable[[], End], name: str) -> None:
    sender, receiver = new_end(), new_end()
    sender.do("open_sender", name, 1)
    receiver.do("attach", name)
    sender.begin("send", 0, 20, 10)
    first = receiver.do("receive", 5)
    receiver.begin("receive", 20, pause=0.05)
    time.sleep(0.5)
    receiver.kill()
    successor = new_end()
    successor.do("attach", name)
    rest = successor.do("receive", 20, timeout=3.0)
    assert sender.result() == 20
    assert [window["stripe"][0, 1, 1] for window in first] == list(range(5))
    numbers = [int(window["stripe"][0, 1, 1]) for window in rest]
    assert numbers == list(range(numbers[0], 20))


def test_channel_of_a_living_sender_is_not_taken_over(
    new_end: Callable[[], End], name: str
) -> None:
    first, second = new_end(), new_end()
    first.do("open_sender", name, 1)
    second.begin("open_sender", name, 1)
    with pytest.raises(EndError, match="ChannelInUse: .*already exists"):
        second.result()
    assert first.do("send", 0, 1, 10) == 1
    assert first.do("depth") == [1]


def test_missing_engine_is_an_error_and_the_process_can_end(new_end: Callable[[], End]) -> None:
    end = new_end()
    with pytest.raises(EndError, match="ChannelError"):
        end.do("open_receiver", "nobody", address="127.0.0.3")
    assert end.finish() == 0


def test_process_that_never_leaves_the_engine_still_ends(
    new_end: Callable[[], End], name: str
) -> None:
    sender, receiver = new_end(), new_end()
    sender.do("open_sender", name, 1)
    receiver.do("attach", name)
    assert receiver.finish() == 0
    assert sender.finish() == 0


def test_memory_stays_flat_over_hundreds_of_calls(new_end: Callable[[], End], name: str) -> None:
    sender, receiver = new_end(), new_end()
    sender.do("open_sender", name, 1)
    receiver.do("attach", name)
    callbacks, futures, grown_kb = receiver.do("count_calls_kept", 600)
    assert callbacks < 5
    assert futures < 5
    assert grown_kb < 2000  # without the repairs about 3,600


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    serve(Client(sys.argv[1], family="AF_UNIX"))
