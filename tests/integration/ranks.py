"""What the tests of many ranks share: the stream, the processes, and the rows of the table."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil
import pytest

from examples.demo.script import Script
from examples.services.common import wait_until
from src.ranks.placement import INDEX_VARIABLE
from tests.integration.crashes import (
    Weights,
    await_step,
    count_rows,
    equal_bit_for_bit,
    final_weights,
)
from tests.integration.pipeline import LONG, Pipeline

GLOBAL_BATCH = 80
STEPS = 180  # a rank whose launcher was killed may train some steps before it ends
ROWS = STEPS * GLOBAL_BATCH
SAVE_EVERY = 20
NOTICE_SECONDS = 30.0
START_SECONDS = 240.0
RANK_OUTCOMES: pytest.StashKey[list[RankOutcome]] = pytest.StashKey()


@dataclass(frozen=True)
class RankOutcome:
    """The result of a launch.

    Attributes:
        launcher: Its key, or several in the order of the launches.
        ranks: Its number of ranks, or several likewise.
        fault: What was done to it.
        end: How the launch ended.
        seconds: From the fault to the end.
        lost: Rows of the topic that the audit trail lacks.
        doubled: Rows that it holds more than once.
        equal: How the weights compare with those of an undisturbed run.
    """

    launcher: str
    ranks: str
    fault: str
    end: str
    seconds: float | None
    lost: int
    doubled: int
    equal: str

    def __str__(self) -> str:
        seconds = "" if self.seconds is None else f"{self.seconds:.1f}"
        return (
            f"{self.launcher:<8} {self.ranks:<6} {self.fault:<24} {self.end:<10} {seconds:>7} "
            f"{self.lost:>9} {self.doubled:>12}  {self.equal}"
        )


RANK_HEADER = (
    f"{'launcher':<8} {'ranks':<6} {'fault':<24} {'exit code':<10} {'seconds':>7} "
    f"{'rows lost':>9} {'rows doubled':>12}  weights against an undisturbed run"
)


def consumer_flags(ranks: int) -> tuple[str, ...]:
    """Flags of a consumer with small windows."""
    size = 480 // ranks
    return (f"--num_shards={ranks}", f"--window_size={size}", f"--max_window_size={size}")


def trainer_flags(ranks: int) -> tuple[str, ...]:
    """Flags of a rank; the global batch is the same for any number of them."""
    return (
        f"--batch_size={GLOBAL_BATCH // ranks}",
        f"--save_checkpoint_steps={SAVE_EVERY}",
        "--keep_checkpoint_max=3",
        "--device_target=CPU",
    )


def start_ranks(pipeline: Pipeline, launcher: str, ranks: int, *flags: str) -> Script:
    """Starts the trainer on some ranks; on one without a launcher."""
    flags = (*trainer_flags(ranks), *flags)
    if ranks == 1:
        return pipeline.trainer(*flags)
    return pipeline.ranks(launcher, ranks, *flags)


def finish(pipeline: Pipeline, trainer: Script) -> None:
    """Waits for the trainer's last step and stops it."""
    await_step(pipeline, trainer, STEPS, START_SECONDS)
    assert trainer.stop(signal.SIGTERM, timeout=LONG) == 0, trainer.log()


def worker(launch: Script, index: int) -> psutil.Process:
    """The process of a rank, by the launcher's number."""
    names = (INDEX_VARIABLE, "OMPI_COMM_WORLD_RANK")
    for process in _trainers_of(launch):
        environment = process.environ()
        if any(environment.get(name) == str(index) for name in names):
            return process
    raise AssertionError(f"no worker {index}:\n{launch.log()}")


def scheduler(launch: Script) -> psutil.Process:
    """The process of the dynamic network's scheduler."""
    for process in _trainers_of(launch):
        if process.environ().get("MS_ROLE") == "MS_SCHED":
            return process
    raise AssertionError(f"no scheduler:\n{launch.log()}")


def _trainers_of(launch: Script) -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process(launch.process.pid).children(recursive=True)
        if any(part.endswith("online_train.py") for part in process.cmdline())
        and os.path.basename(process.cmdline()[0]) != "mpirun"
    ]


def left_over(pipeline: Pipeline) -> list[psutil.Process]:
    """All trainer processes of a pipeline."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        with suppress(psutil.NoSuchProcess):
            line = process.info["cmdline"] or []
            is_trainer = any(part.endswith("online_train.py") for part in line)
            if is_trainer and f"--dataset_name={pipeline.name}" in line:
                found.append(process)
    return found


def assert_nothing_left(pipeline: Pipeline) -> None:
    """Fails when a rank, a scheduler or mpirun outlives its launcher."""
    assert wait_until(lambda: not left_over(pipeline), 10.0), left_over(pipeline)


def seconds_to_end(launch: Script) -> float:
    """Waits for the end of a launch after a fault."""
    began = time.monotonic()
    launch.wait(LONG)
    return time.monotonic() - began


def rows_of(pipeline: Pipeline) -> tuple[int, int]:
    """How many rows the audit trail lacks, and how many it holds twice."""
    counted = count_rows(pipeline.audit())
    wanted = Counter({(part, offset) for part in (0, 1) for offset in range(ROWS // 2)})
    return sum((wanted - counted).values()), sum((counted - wanted).values())


def compared(found: Weights, reference: Weights) -> str:
    """How two sets of parameters compare, as text for the table."""
    if equal_bit_for_bit(found, reference):
        return "equal bit for bit"
    assert found.keys() == reference.keys()
    return f"largest difference {largest_difference(found, reference):.1e}"


def largest_difference(found: Weights, reference: Weights) -> float:
    """The largest |a - b| over all floating-point parameters."""
    return max(
        float(np.abs(values.astype(np.float64) - reference[name]).max())
        for name, values in found.items()
        if values.dtype.kind == "f"
    )


def judged(
    pipeline: Pipeline,
    reference: Weights,
    launcher: str,
    ranks: str,
    fault: str,
    code: int,
    seconds: float | None = None,
) -> RankOutcome:
    """The row of the table, once the last row has been trained."""
    lost, doubled = rows_of(pipeline)
    equal = compared(final_weights(pipeline.folder, STEPS), reference)
    return RankOutcome(launcher, ranks, fault, str(code), seconds, lost, doubled, equal)
