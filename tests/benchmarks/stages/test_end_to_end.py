from __future__ import annotations

import math
from pathlib import Path

from benchmarks.processes.pipelines import Losses
from benchmarks.stages.end_to_end import SKIPPED_STEPS, busy_share, steady_rate


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
