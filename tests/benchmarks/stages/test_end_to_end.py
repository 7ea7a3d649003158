from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.processes.pipelines import Losses
from benchmarks.stages import end_to_end_adaptive
from benchmarks.stages.end_to_end import (
    AROUND_CHECKPOINTS,
    SKIPPED_STEPS,
    OwnRun,
    busy_share,
    checkpoint_loss,
    steady_rate,
)


def test_steady_rate_leaves_the_first_steps_out() -> None:
    losses = Losses()
    losses.times = [0.1 * step for step in range(SKIPPED_STEPS - 1)]
    losses.times += [100 + 0.5 * step for step in range(41)]
    assert math.isclose(steady_rate(losses, batch_size=100), 200)


def test_busy_share_is_the_part_of_the_time_inside_steps(tmp_path: Path) -> None:
    times = [[step, step + 0.1] for step in range(SKIPPED_STEPS - 1)]
    times += [[step, step + 0.75] for step in range(100, 111)]
    path = tmp_path / "times.json"
    path.write_text(str(times))
    assert math.isclose(busy_share(path), 0.75)


def run_of(seconds: float, checkpoint_seconds: float = 0.0) -> OwnRun:
    """A run whose steps take so long, and each 100th so much longer."""
    losses = Losses()
    now = 0.0
    for step in range(1, AROUND_CHECKPOINTS[1] + 1):
        now += seconds + (checkpoint_seconds if step % 100 == 0 else 0)
        losses.times.append(now)
        losses.wide.append(1 / step)
    return OwnRun(losses, busy=1.0)


def test_the_steady_state_may_end_before_the_run_does(tmp_path: Path) -> None:
    run = run_of(0.5, checkpoint_seconds=7)
    assert math.isclose(steady_rate(run.losses, 100, last=99), 200)
    path = tmp_path / "times.json"
    path.write_text(str([[step, step + (0.5 if step < 30 else 0.9)] for step in range(60)]))
    assert math.isclose(busy_share(path, 30), 0.5)
    assert busy_share(path) > 0.6


def test_a_checkpoint_costs_its_share_of_one_period() -> None:
    with_them = [run_of(0.1, 1), run_of(0.1, 1), run_of(0.1, 90)]
    loss = checkpoint_loss(with_them, [run_of(0.1)] * 3)
    assert math.isclose(loss, 1 - 10 / 11)
    assert checkpoint_loss([run_of(0.1)], [run_of(0.2)]) < 0


def test_rounds_whose_first_losses_differ_are_noticed() -> None:
    runs = [run_of(0.1), run_of(0.2)]
    end_to_end_adaptive.check_equal(runs)
    runs[1].losses.wide[3] += 1e-3
    with pytest.raises(AssertionError):
        end_to_end_adaptive.check_equal(runs)
