"""``end_to_end``: rows that are in the topic already → trained rows, by the real scripts.

The rate is that of the loss lines in steady state, after the first steps. The limit is the rate of
the same steps back to back: the rate divided by the share of time in which the trainer is busy.
Our trainer goes on for some steps, and runs without checkpoints too. What a checkpoint costs is
seen over all steps from shortly before one to the next.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from benchmarks.processes.pipelines import Losses, Pipeline, fill_one_partition
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.stages.consume import Topics
from benchmarks.timing import alternate, medians, typical_mean

SKIPPED_STEPS = 20
STEPS = 120  # the checkpoint at step 100 counts
PERIOD = 100  # steps between checkpoints, by default
AROUND_CHECKPOINTS = (90, 390)  # three periods, each with a checkpoint and what it leaves
NEVER = 1_000_000  # steps between checkpoints
READ_AHEAD_WINDOWS = 12  # a trainer must not run out of rows
EQUAL_STEPS = 20
EQUAL_WITHIN = 1e-4  # twenty float32 steps add up small differences


class OwnRun(NamedTuple):
    """What our pipeline has done.

    Attributes:
        losses: Its loss lines.
        busy: See ``busy_share``.
    """

    losses: Losses
    busy: float


def run(settings: Settings) -> list[Result]:
    """Measures rows/s, the share of time in steps, and what checkpoints cost."""
    last, size = AROUND_CHECKPOINTS[1], settings.batches[0]
    rows = last * size + READ_AHEAD_WINDOWS * settings.windows[0]
    topics = fill_one_partition(settings, rows)
    documented: list[Losses] = []
    runs: dict[str, list[OwnRun]] = {"ours": [], "without_checkpoints": []}

    def ours(name: str, *flags: str) -> float:
        done = run_own(settings, topics.lines, last, STEPS, trainer_flags=flags)
        runs[name].append(done)
        return steady_rate(done.losses, size)

    def theirs() -> float:
        documented.append(_run_documented(settings, topics))
        return steady_rate(documented[-1], size)

    without = "without_checkpoints"
    ways: dict[str, Callable[[], float]] = {
        "documented": theirs,
        "ours": lambda: ours("ours"),
        without: lambda: ours(without, f"--save_checkpoint_steps={NEVER}"),
    }
    median = medians(alternate(ways, settings.repeats, "end_to_end", warm_up=False))
    check_equal(documented[-1], runs["ours"][-1].losses)
    share = statistics.median(run.busy for run in runs["ours"])
    result = Result(
        "end_to_end",
        median["documented"],
        median["ours"],
        "rows/s",
        limit=median["ours"] / share,
        measures={"busy": share, "checkpoint_loss": checkpoint_loss(runs["ours"], runs[without])},
    )
    return [result]


def _run_documented(settings: Settings, topics: Topics) -> Losses:
    lines = Losses()
    with Pipeline(settings, topics.documented, is_documented=True) as pipeline:
        pipeline.start_consumer()
        trainer = pipeline.start_trainer(lines)
        pipeline.wait_for_steps(trainer, lines, STEPS)
    return lines


def run_own(
    settings: Settings,
    topic: str,
    steps: int,
    steady_steps: int,
    shared_flags: Sequence[str] = (),
    trainer_flags: Sequence[str] = (),
) -> OwnRun:
    """Runs our pipeline.

    Args:
        settings: Services, sizes and the folder.
        topic: The topic that holds the rows.
        steps: Steps to train.
        steady_steps: The last step of the steady state.
        shared_flags: Further flags of consumer and trainer.
        trainer_flags: Further flags of the trainer.

    Raises:
        RuntimeError: A script failed.
    """
    lines = Losses()
    with Pipeline(settings, topic, is_documented=False, shared_flags=shared_flags) as pipeline:
        pipeline.start_consumer()
        trainer = pipeline.start_trainer(lines, steps, timed=True, trainer_flags=trainer_flags)
        pipeline.wait_for_steps(trainer, lines, steps)
        if trainer.wait(timeout=60) != 0:
            raise RuntimeError(f"online_train.py failed:\n{trainer.log()[-2000:]}")
        return OwnRun(lines, busy_share(pipeline.times_path, steady_steps))


def steady_rate(
    losses: Losses, batch_size: int, first: int = SKIPPED_STEPS, last: int = STEPS
) -> float:
    """Rows/s from the end of the last skipped step to the end of the last one."""
    times = losses.times[first - 1 : last]
    return (len(times) - 1) * batch_size / (times[-1] - times[0])


def busy_share(times_path: Path, last: int = STEPS) -> float:
    """The share of the steady state that the trainer spent in steps, not waiting for a batch."""
    times = json.loads(times_path.read_text())[SKIPPED_STEPS - 1 : last]
    in_steps = sum(ended - began for began, ended in times[1:])
    return float(in_steps / (times[-1][1] - times[0][1]))


def checkpoint_loss(with_them: Sequence[OwnRun], without: Sequence[OwnRun]) -> float:
    """The share of the speed that checkpoints take; below 0 where other things matter more.

    Other work on the machine prolongs a step more than a checkpoint does. So for each place in a
    period the median over all periods and runs counts.
    """
    first, last = AROUND_CHECKPOINTS
    seconds = [
        typical_mean(
            np.concatenate([np.diff(run.losses.times[first - 1 : last]) for run in runs]), PERIOD
        )
        for runs in (with_them, without)
    ]
    return 1 - seconds[1] / seconds[0]


def check_equal(documented: Losses, ours: Losses) -> None:
    """Fails unless both pipelines printed the same losses for the first steps."""
    for wanted, actual in ((documented.wide, ours.wide), (documented.deep, ours.deep)):
        first = [list(itertools.islice(losses, EQUAL_STEPS)) for losses in (actual, wanted)]
        np.testing.assert_allclose(first[0], first[1], rtol=EQUAL_WITHIN)
