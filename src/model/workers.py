"""MindSpore's workers: the threads that compute operators on the CPU.

The thread that runs a step gives each operator to the workers. Until they are done it calls
``sched_yield`` again and again, so the kernel sees it run all the time. On a machine with as many
workers as CPUs there is then one thread too many. The kernel lets two workers share a CPU for many
steps, and such a step takes up to twice as long.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

WORKER_NAMES = ("ActorThread_", "KernelThread_")
_THREADS = Path("/proc/self/task")


def bind_workers() -> bool:
    """Binds each worker to a CPU of its own, where there are as many workers as CPUs.

    With more CPUs than workers the kernel finds a free one by itself. Workers exist once a network
    has run.

    Returns:
        Whether they are bound.
    """
    workers, cpus = workers_by_thread(), sorted(os.sched_getaffinity(0))
    if len(cpus) < 2 or len(workers) != len(cpus):
        return False
    try:
        for worker, cpu in zip(workers, cpus):
            os.sched_setaffinity(worker, {cpu})
    except OSError as error:  # a sandbox may forbid it
        logger.debug("MindSpore's workers are not bound to CPUs: %s", error)
        return False
    return True


def free_workers() -> None:
    """Lets the workers run on every CPU again."""
    for worker in workers_by_thread():
        os.sched_setaffinity(worker, os.sched_getaffinity(0))


def workers_by_thread() -> list[int]:
    """The thread ids of the workers of this process, in the order in which they were started."""
    threads = sorted(int(entry.name) for entry in _THREADS.iterdir())
    return [thread for thread in threads if _name(thread).startswith(WORKER_NAMES)]


def _name(thread: int) -> str:
    try:
        return (_THREADS / str(thread) / "comm").read_text()
    except OSError:  # it has just ended
        return ""
