"""online_train.py itself, which also notes when each step began and ended.

    python benchmarks/processes/timed_train.py TIMES_FILE FLAGS_OF_ONLINE_TRAIN…

Between the end of a step, its callbacks included, and the beginning of the next the trainer waits
for a batch, and does nothing else.
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

import mindspore as ms

import online_train
from src.model.train_step import TrainStepWrap
from src.trainer import service as trainer_service
from src.trainer.dataset import StreamingDataset
from src.trainer.trainer import Trainer


class StepTimes(ms.Callback):  # type: ignore[misc]
    """Writes [begin, end] of each step, monotonic seconds, to a file when training ends."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._began = 0.0
        self._times: list[tuple[float, float]] = []

    def on_train_step_begin(self, run_context: Any) -> None:
        """The batch is there."""
        self._began = time.monotonic()

    def on_train_step_end(self, run_context: Any) -> None:
        """The step and what comes after it are done."""
        self._times.append((self._began, time.monotonic()))

    def __exit__(self, *error: object) -> None:
        self._path.write_text(json.dumps(self._times))


class TimedTrainer(Trainer):
    """The trainer with one more callback, behind all others but the one that stops it."""

    times_path: Path

    def _online_train(
        self, network: TrainStepWrap, stream: StreamingDataset, callbacks: list[ms.Callback]
    ) -> None:
        timed = [*callbacks[:-1], StepTimes(self.times_path), callbacks[-1]]
        super()._online_train(network, stream, timed)


def main(argv: Sequence[str]) -> int:
    """Runs the trainer; returns its exit code."""
    TimedTrainer.times_path = Path(argv[0])
    setattr(trainer_service, "Trainer", TimedTrainer)  # noqa: B010 - what run_trainer makes
    return online_train.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
