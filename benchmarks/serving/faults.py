"""Faults, one after another, under load: what the server did, and whether a request failed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.live import ServingRun
from src.publishing.chain import CURRENT, read_current
from src.publishing.version_format import WEIGHTS


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: What is done.
        strike: Does it; it returns when that is done.
    """

    name: str
    strike: Callable[[ServingRun], None]


def _newest(run: ServingRun) -> Path:
    chain = read_current(run.plan.published)
    assert chain is not None, "versions are published"
    return run.plan.published / chain.names[-1]


def _while_the_server_sleeps(strike: Callable[[ServingRun], None]) -> Callable[[ServingRun], None]:
    """Strikes a version that the server can't have read: it is stopped until one is there."""

    def struck(run: ServingRun) -> None:
        before = _newest(run)
        os.kill(run.server.process.pid, signal.SIGSTOP)
        try:
            ends = time.monotonic() + 10
            while _newest(run) == before and time.monotonic() < ends:
                time.sleep(0.01)
            strike(run)
        finally:
            os.kill(run.server.process.pid, signal.SIGCONT)

    return struck


def _tear(run: ServingRun) -> None:
    path = _newest(run) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])


def _remove(run: ServingRun) -> None:
    shutil.rmtree(_newest(run))


def _damage_current(run: ServingRun) -> None:
    (run.plan.published / CURRENT).write_bytes(b"{")


FAULTS = (
    Fault("none", lambda run: None),
    Fault("kill -9 of the trainer, and its restart", lambda run: run.restart_trainer()),
    Fault("another server takes over, the old one is stopped", lambda run: run.restart_server()),
    Fault("the newest delta is torn", _while_the_server_sleeps(_tear)),
    Fault("the newest version is removed", _while_the_server_sleeps(_remove)),
    Fault("current.json is damaged", _damage_current),
)


def outcome(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What the server did, from its ``/status`` before and after."""
    said = f"; said: {after['fault']}" if after["fault"] else ""
    return f"version {before.get('version')} → {after.get('version')}{said}"
