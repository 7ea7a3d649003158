"""``end_to_end_adaptive``: rows in the topic → trained rows, with ``examples/adaptive.yaml``.

All of the project runs as it does by default: reports, checkpoints, loss file, a vocabulary that
grows. The rate is that of all steps after the first ones. The limit is as for ``end_to_end``. The
documented way has no such model. The peer is Vowpal Wabbit with all pairs of fields. It reads the
same rows from memory, alone on the machine.
"""

from __future__ import annotations

import statistics
from typing import Callable

import numpy as np

from benchmarks.inputs import row_files
from benchmarks.learning.linear_learner import VOWPAL_WABBIT, one_pass
from benchmarks.report import Result
from benchmarks.settings import ADAPTIVE, Settings
from benchmarks.stages.end_to_end import (
    EQUAL_STEPS,
    EQUAL_WITHIN,
    READ_AHEAD_WINDOWS,
    SKIPPED_STEPS,
    OwnRun,
    run_own,
    steady_rate,
)
from benchmarks.stages.produce import new_topic
from benchmarks.timing import alternate, medians
from src.stream.produce import ProduceOptions, send_file

PEER = "vowpal_wabbit_pairs"
SHARED_FLAGS = (f"--config_path={ADAPTIVE}",)
# Steps are counted, so each must be of a full batch.
TRAINER_FLAGS = ("--batch_seconds=0", "--loss_file_name=loss.log")


def run(settings: Settings) -> list[Result]:
    """Measures rows/s."""
    size, python = settings.batches[0], settings.vowpal_wabbit
    steps = max(settings.rows // size, SKIPPED_STEPS + 1)
    rows = steps * size + READ_AHEAD_WINDOWS * settings.windows[0]
    topic = fill_topic(settings, rows)
    runs: list[OwnRun] = []

    def ours() -> float:
        runs.append(run_own(settings, topic, steps, steps, SHARED_FLAGS, TRAINER_FLAGS))
        return steady_rate(runs[-1].losses, size, last=steps)

    ways: dict[str, Callable[[], float]] = {"ours": ours}
    if python is not None:
        (path,) = row_files(settings.work_dir, rows, parts=1)
        scores = settings.work_dir / f"{PEER}.scores"
        ways["peer"] = lambda: steps * size / one_pass(python, PEER, path, steps * size, scores)
    median = medians(alternate(ways, settings.repeats, "end_to_end_adaptive", warm_up=False))
    check_equal(runs)
    share = statistics.median(run.busy for run in runs)
    median["limit"] = median["ours"] / share
    peer = f"Vowpal Wabbit {VOWPAL_WABBIT.partition('==')[2]}"
    return [Result.of_medians("end_to_end_adaptive", "rows/s", median, peer, busy=share)]


def fill_topic(settings: Settings, rows: int) -> str:
    """Produces rows to both partitions of a new topic; returns its name."""
    topic = new_topic(settings.bootstrap_servers)
    options = ProduceOptions(settings.bootstrap_servers, topic)
    for partition, path in enumerate(row_files(settings.work_dir, rows)):
        send_file(path, partition, options, lambda: False)
    return topic


def check_equal(runs: list[OwnRun]) -> None:
    """Fails unless all rounds printed the same losses for the first steps."""
    first = np.array([run.losses.wide[:EQUAL_STEPS] for run in runs])
    np.testing.assert_allclose(first[1:], first[:-1], rtol=EQUAL_WITHIN)
