"""online_train.py itself, which also records when each step began and ended.

    python benchmarks/processes/timed_train.py TIMES_FILE FLAGS_OF_ONLINE_TRAIN…

A step includes its callbacks. Between two steps the trainer only waits for a batch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import online_train
from src.trainer import trainer as trainer_module
from src.trainer.reporting import StepTimer


class StepTimes(StepTimer):
    """The trainer's own timer, which also writes [begin, end] of each step to a file at the end.

    Only the callback that stops the training comes after it. Times are monotonic, in seconds.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._step_began = 0.0
        self._times: list[tuple[float, float]] = []

    def on_train_step_begin(self, run_context: Any) -> None:
        """The batch is there."""
        super().on_train_step_begin(run_context)
        self._step_began = time.monotonic()

    def on_train_step_end(self, run_context: Any) -> None:
        """The step and its callbacks are done."""
        super().on_train_step_end(run_context)
        self._times.append((self._step_began, time.monotonic()))

    def __exit__(self, *error: object) -> None:
        self._path.write_text(json.dumps(self._times))


def main(argv: Sequence[str]) -> int:
    """Runs the trainer; returns its exit code."""
    path = Path(argv[0])
    setattr(trainer_module, "StepTimer", lambda: StepTimes(path))  # noqa: B010 - Trainer's timer
    return online_train.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
