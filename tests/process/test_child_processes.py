"""Real processes whose parents are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Prints its process number and runs until it gets SIGTERM.
ENDS_ON_SIGTERM = textwrap.dedent(
    """
    import os, signal, sys, time
    def end(number, frame):
        open(sys.argv[1], "w").write(signal.Signals(number).name)
        os._exit(0)
    signal.signal(signal.SIGTERM, end)
    print(os.getpid(), flush=True)
    time.sleep(60)
    """
)


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def is_gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process that is no child of ours ends in time."""
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        if stat.rpartition(")")[2].split()[0] == "Z":  # its parent has not waited for it yet
            return True
        time.sleep(0.02)
    return False


STARTS_A_CHILD = """
    import subprocess, sys, time
    from src.process.child_processes import ended_with_parent
    before = {} if sys.argv[2] == "0" else {"preexec_fn": ended_with_parent(int(sys.argv[2]))}
    child = subprocess.Popen(
        [sys.executable, "-c", sys.argv[1], *sys.argv[3:]], stdout=subprocess.PIPE, **before
    )
    child.stdout.readline()
    print(child.pid, flush=True)
    time.sleep(60)
"""


def killed_parents_child(number: int, *arguments: str) -> int:
    with run(STARTS_A_CHILD, ENDS_ON_SIGTERM, str(int(number)), *arguments) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    return pid


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    assert is_gone(killed_parents_child(signal.SIGKILL, str(tmp_path / "end")))
    assert not (tmp_path / "end").exists()


def test_a_child_gets_the_signal_that_was_asked_for(tmp_path: Path) -> None:
    assert is_gone(killed_parents_child(signal.SIGTERM, str(tmp_path / "end")))
    assert (tmp_path / "end").read_text() == "SIGTERM"


def test_another_child_would_live_on(tmp_path: Path) -> None:
    pid = killed_parents_child(0, str(tmp_path / "end"))
    try:
        assert not is_gone(pid, seconds=1.0)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_child_whose_parent_died_before_it_could_say_so_ends_at_once() -> None:
    script = """
        import os, time
        from src.process.child_processes import ended_with_parent
        before_exec = ended_with_parent()  # of this process, which is not the grandchild's parent
        if os.fork() == 0:
            if os.fork() == 0:
                before_exec()
                time.sleep(60)
                os._exit(0)
            _, status = os.wait()
            print(os.WTERMSIG(status), flush=True)
            os._exit(0)
        os.wait()
    """
    with run(script) as process:
        output, _ = process.communicate(timeout=20)
    assert output == f"{int(signal.SIGKILL)}\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_can_ask_for_it_itself(number: signal.Signals) -> None:
    script = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(60)
    """
    child = f"""
        import time
        from src.process.child_processes import end_with_parent
        end_with_parent({int(number)})
        print("ready", flush=True)
        time.sleep(60)
    """
    with run(script, textwrap.dedent(child)) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert is_gone(pid)
