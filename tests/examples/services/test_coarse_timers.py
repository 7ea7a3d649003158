"""Processes started with coarse timers have them; this one does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.services.coarse_timers import TIMER_SLACK_NANOSECONDS, coarse_timers

SLACK = Path("/proc/self/timerslack_ns")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has such timers")


def slack_of_a_child() -> int:
    return int(subprocess.run(["cat", SLACK], capture_output=True, check=True).stdout)


def test_a_process_started_with_coarse_timers_inherits_them() -> None:
    with coarse_timers():
        assert slack_of_a_child() == TIMER_SLACK_NANOSECONDS


def test_what_is_started_later_has_the_usual_timers() -> None:
    usual = slack_of_a_child()
    with coarse_timers():
        pass
    assert slack_of_a_child() == usual < TIMER_SLACK_NANOSECONDS
