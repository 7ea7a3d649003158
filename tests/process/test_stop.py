"""A signal sets the flag even while the main thread is stuck in native code."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from src.process.stop import IdleLimit, StopFlag

ROOT = Path(__file__).resolve().parents[2]

WAITS = {
    "a lock that is never released": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "a sleep": "time.sleep(60)",
    "a socket that stays silent": "socket.socketpair()[0].recv(1)",
    "a C function that is not interrupted": (
        # Retries after EINTR without ever coming back to Python, as a pipeline's queue does.
        "libc = ctypes.CDLL(None); mutex = ctypes.create_string_buffer(64); "
        "libc.pthread_mutex_lock(mutex); libc.pthread_mutex_lock(mutex)"
    ),
}


def start(body: str) -> subprocess.Popen[str]:
    """Runs a script whose main thread waits while another prints the reason for the stop."""
    script = """
        import ctypes, os, socket, threading, time
        from src.process.stop import IdleLimit, StopFlag, stop_on_signals
        flag = StopFlag()
        stop_on_signals(flag)
        def report():
            flag.wait(None)
            time.sleep(0.2)
            print(flag.reason, flush=True)
            os._exit(0)
        threading.Thread(target=report).start()
        print("ready", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script) + body],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    return process


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag_while_the_main_thread_waits_in(
    number: signal.Signals, wait: str
) -> None:
    with start(WAITS[wait]) as process:
        began = time.monotonic()
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
        seconds = time.monotonic() - began
    assert output == f"{number.name}\n"
    assert process.returncode == 0
    assert seconds < 0.2 + 1.0


def test_of_two_signals_the_first_is_the_reason() -> None:
    with start("time.sleep(60)") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert output == "SIGINT\n"
    assert process.returncode == 0


def test_a_child_started_afterwards_is_ended_by_sigterm() -> None:
    body = textwrap.dedent(
        """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        child.terminate()
        flag.reason = str(child.wait(10))
        flag.set("done")
        print(flag.reason, child.returncode, flush=True)
        os._exit(0)
        """
    )
    with start(body) as process:
        output, _ = process.communicate(timeout=20)
    assert output == f"done {-signal.SIGTERM}\n"


def test_the_first_reason_counts_among_threads() -> None:
    for _ in range(20):
        flag = StopFlag()
        assert not flag.is_set()
        assert not flag.wait(0)
        barrier = threading.Barrier(4)
        seen: list[str] = []

        def ask(
            name: str,
            flag: StopFlag = flag,
            barrier: threading.Barrier = barrier,
            seen: list[str] = seen,
        ) -> None:
            barrier.wait()
            flag.set(name)
            seen.append(flag.reason)

        threads = [threading.Thread(target=ask, args=(str(number),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert flag.is_set()
        assert flag.wait(None)
        assert set(seen) == {flag.reason}


def test_idle_time_ends_a_run_and_begins_anew_while_something_is_held_back() -> None:
    flag, answers = StopFlag(), [True, True, False, False]
    limit = IdleLimit(flag, 0.05, lambda: answers.pop(0))
    began = time.monotonic()
    while not flag.wait(0.001):
        limit.check(began)
    assert flag.reason == "no rows for 0.05 s"
    assert not answers
    assert time.monotonic() - began >= 4 * 0.05


def test_without_a_limit_idle_time_ends_nothing() -> None:
    flag = StopFlag()
    IdleLimit(flag, 0).check(float("-inf"))
    assert not flag.is_set()
