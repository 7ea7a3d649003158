"""``end_to_end``: rows that are in the topic already → trained rows, by the real scripts.

The rate is that of the loss lines in steady state, after the first steps. The limit is the rate of
the same steps back to back: the rate divided by the share of time in which the trainer is busy.
"""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path
from typing import Callable

import numpy as np

from benchmarks.processes.pipelines import Losses, Pipeline, fill_one_partition
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.stages.consume import Topics
from benchmarks.timing import alternate, medians

SKIPPED_STEPS = 20
STEPS = 120  # the checkpoint at step 100 counts
EQUAL_STEPS = 20
EQUAL_WITHIN = 1e-4  # twenty float32 steps add up small differences


def run(settings: Settings) -> list[Result]:
    """Measures rows/s, and the share of time in which our trainer is in a step."""
    # The pipelines read ahead: a trainer must not run out of rows.
    rows = STEPS * settings.batches[0] + 12 * settings.windows[0]
    topics = fill_one_partition(settings, rows)
    losses: dict[str, Losses] = {}
    busy: list[float] = []
    ways: dict[str, Callable[[], float]] = {
        "documented": lambda: _run_documented(settings, topics, losses),
        "ours": lambda: _run_ours(settings, topics, losses, busy),
    }
    median = medians(alternate(ways, settings.repeats, "end_to_end", warm_up=False))
    check_equal(losses["documented"], losses["ours"])
    share = statistics.median(busy)
    result = Result(
        "end_to_end",
        median["documented"],
        median["ours"],
        "rows/s",
        limit=median["ours"] / share,
        measures={"busy": share},
    )
    return [result]


def _run_documented(settings: Settings, topics: Topics, losses: dict[str, Losses]) -> float:
    losses["documented"] = lines = Losses()
    with Pipeline(settings, topics.documented, is_documented=True) as pipeline:
        pipeline.start_consumer()
        trainer = pipeline.start_trainer(lines)
        pipeline.wait_for_steps(trainer, lines, STEPS)
    return steady_rate(lines, settings.batches[0])


def _run_ours(
    settings: Settings, topics: Topics, losses: dict[str, Losses], busy: list[float]
) -> float:
    losses["ours"] = lines = Losses()
    with Pipeline(settings, topics.lines, is_documented=False) as pipeline:
        pipeline.start_consumer()
        trainer = pipeline.start_trainer(lines, STEPS, timed=True)
        pipeline.wait_for_steps(trainer, lines, STEPS)
        if trainer.wait(timeout=60) != 0:
            raise RuntimeError(f"online_train.py failed:\n{trainer.log()[-2000:]}")
        busy.append(busy_share(pipeline.times_path))
    return steady_rate(lines, settings.batches[0])


def steady_rate(losses: Losses, batch_size: int) -> float:
    """Rows/s from the end of the last skipped step to the end of the last one."""
    times = losses.times[SKIPPED_STEPS - 1 : STEPS]
    return (len(times) - 1) * batch_size / (times[-1] - times[0])


def busy_share(times_path: Path) -> float:
    """The share of the steady state that the trainer spent in steps, not waiting for a batch."""
    times = json.loads(times_path.read_text())[SKIPPED_STEPS - 1 :]
    in_steps = sum(ended - began for began, ended in times[1:])
    return float(in_steps / (times[-1][1] - times[0][1]))


def check_equal(documented: Losses, ours: Losses) -> None:
    """Fails unless both pipelines printed the same losses for the first steps."""
    for wanted, actual in ((documented.wide, ours.wide), (documented.deep, ours.deep)):
        first = [list(itertools.islice(losses, EQUAL_STEPS)) for losses in (actual, wanted)]
        np.testing.assert_allclose(first[0], first[1], rtol=EQUAL_WITHIN)
