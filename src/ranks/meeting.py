"""How the ranks of a launch meet, and the scheduler that lets them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mindspore.communication import get_group_size, get_rank, init

from src.ranks.group import Ranks
from src.ranks.heartbeat import heartbeat_writer_from
from src.ranks.placement import MEETING_VARIABLE, Placement, RankError, Role

logger = logging.getLogger(__name__)

MEETING_SECONDS = 600


def meet(placement: Placement) -> Ranks:
    """Waits for all ranks of the launch. MindSpore's device and graph mode must be set.

    Raises:
        RankError: They don't meet. Where MindSpore waits for ever, SIGALRM ends the process.
    """
    if placement.role is Role.ALONE:
        return Ranks()
    heartbeat = heartbeat_writer_from(dict(os.environ), placement.index)
    seconds = int(os.environ.get(MEETING_VARIABLE, MEETING_SECONDS))
    logger.info(
        "%s: waiting for %d ranks to meet, %d s at most",
        placement.role.value,
        placement.size,
        seconds,
    )
    with _killed_after(seconds):
        try:
            init()
        except RuntimeError as error:
            raise RankError(
                f"the ranks did not meet: {' '.join(str(error).split())[:200]}"
            ) from None
        ranks = Ranks(get_rank(), get_group_size(), heartbeat)
        ranks.sum(np.zeros(1, np.float32))  # that init returns does not mean that all are there
    if ranks.size != placement.size:
        raise RankError(f"{ranks.size} ranks have met, expected {placement.size}")
    heartbeat.rank = ranks.rank  # from now on the launcher watches it
    logger.info("rank %d of %d", ranks.rank, ranks.size)
    return ranks


def serve_as_scheduler() -> None:
    """Serves the workers of a dynamic network; ends the process, after they have left."""
    run_as_batch_process()
    seconds = int(os.environ.get(MEETING_VARIABLE, MEETING_SECONDS))
    with _killed_after(seconds):
        init()
    sys.exit(0)  # MindSpore's scheduler serves from its exit handler


def run_as_batch_process() -> None:
    """Keeps this process from taking the processor from a worker that it answers.

    MindSpore 2.0.0's client sends a request and then waits for a notice of the answer. If the
    answer comes before that wait, the client misses it and gives the network up half a minute
    later. That happens on a busy machine, where the request wakes the scheduler, which then runs
    in place of the worker.
    """
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@contextmanager
def _killed_after(seconds: int) -> Iterator[None]:
    """Lets the kernel end this process after some time.

    MindSpore's start holds the interpreter, so neither a thread nor a handler of ours would run.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
