"""MindSpore's workers get a CPU each where there are as many, and are left alone elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

RUN_A_NETWORK_AND_BIND = """
import json, os, sys
count = int(sys.argv[1])
cpus = sorted(os.sched_getaffinity(0))[:count]
os.sched_setaffinity(0, cpus)
import mindspore as ms
from src.model.workers import bind_workers, free_workers, workers_by_thread

def found():
    return [sorted(os.sched_getaffinity(thread)) for thread in workers_by_thread()]

ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
before = bind_workers()
ms.nn.Dense(4, 4)(ms.ops.ones((4, 4), ms.float32)).asnumpy()
are_bound = bind_workers()
bound = found()
free_workers()
own = sorted(os.sched_getaffinity(0))
print(json.dumps(dict(
    before=before, cpus=cpus, are_bound=are_bound, bound=bound, freed=found(), own=own
)))
"""


def run_with(cpus: int) -> dict[str, Any]:
    command = [sys.executable, "-c", RUN_A_NETWORK_AND_BIND, str(cpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_with_as_many_cpus_as_workers_each_worker_has_one_for_itself() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.fail("this test needs two CPUs")
    found = run_with(2)
    assert not found["before"]  # there were no workers yet
    assert found["are_bound"]
    assert found["bound"] == [[cpu] for cpu in found["cpus"]]
    assert found["own"] == found["cpus"]
    assert found["freed"] == [found["cpus"]] * 2


def test_more_workers_than_cpus_are_not_bound() -> None:
    found = run_with(1)
    assert not found["are_bound"]
    assert found["bound"] == [found["cpus"]] * 2
