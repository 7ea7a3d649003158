"""A process ends with the exit code that it chose, and loses none of its output."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from src.process.exit_handlers import keep_modules_until_exit


@pytest.mark.parametrize(("name", "gained"), [("pack", 1), ("pack.inner", 1), ("package", 0)])
def test_only_modules_of_the_package_gain_a_reference(
    monkeypatch: pytest.MonkeyPatch, name: str, gained: int
) -> None:
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    before = sys.getrefcount(module)
    keep_modules_until_exit("pack")
    assert sys.getrefcount(module) - before == gained


def test_exit_without_handlers_runs_none_and_loses_no_output() -> None:
    program = """
import atexit, logging, os
from src.process.exit_handlers import exit_without_handlers
atexit.register(os.abort)
print("a line on stdout")
logging.basicConfig()
logging.warning("a line on stderr")
exit_without_handlers(3)
"""
    # Into a pipe stdout is written in blocks, unless this is set: what is not flushed is lost.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 3
    assert done.stdout == "a line on stdout\n"
    assert "a line on stderr" in done.stderr


@pytest.mark.parametrize(
    "hangs", ["atexit.register(hang)", "threading.Thread(target=hang).start()"]
)
def test_what_hangs_at_the_exit_is_named_and_ended_with_the_same_code(hangs: str) -> None:
    program = f"""
import atexit, logging, threading
from src.process.exit_handlers import exit_in_time
def hang():
    threading.Event().wait()
logging.basicConfig()
{hangs}
print("a line on stdout")
exit_in_time(3, seconds=0.2)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert done.stdout == "a line on stdout\n"
    assert "ended by force" in done.stderr and "in hang" in done.stderr


@pytest.mark.parametrize("code", [0, 1])
def test_a_process_that_ends_by_itself_is_left_alone(code: int) -> None:
    program = f"from src.process.exit_handlers import exit_in_time; exit_in_time({code})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (code, b"")
