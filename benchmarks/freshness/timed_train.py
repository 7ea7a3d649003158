"""online_train.py itself, which also records windows received, and when each step began and ended.

    python benchmarks/freshness/timed_train.py FOLDER FLAGS_OF_ONLINE_TRAIN…

The folder gets ``received``, ``begun`` and ``trained``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import online_train
from benchmarks.freshness.events import EventFile, last_offsets
from src.process.arrays import Array
from src.trainer import callbacks as callbacks_module
from src.trainer import dataset as dataset_module
from src.trainer import trainer as trainer_module
from src.trainer.admission import WindowAdmission
from src.trainer.callbacks import LedgerCallBack


class TimedAdmission(WindowAdmission):
    """Records when a window was received."""

    events: EventFile

    def due_rows(self, window: Array) -> Array:
        """Admits a window."""
        if len(window):
            self.events.add(time.time(), last_offsets(window))
        return super().due_rows(window)


class TimedLedger(LedgerCallBack):
    """Records when a step began and ended, with the last offsets that it has trained."""

    begun: EventFile
    trained: EventFile
    _began = 0.0

    def on_train_step_begin(self, run_context: Any) -> None:
        """The batch is there."""
        self._began = time.time()

    def on_train_step_end(self, run_context: Any) -> None:
        """The step is done."""
        ended = time.time()
        super().on_train_step_end(run_context)
        batch = self._progress.batch
        offsets = {rows.partition: rows.last_offset for rows in batch.ranges} if batch else {}
        self.begun.add(self._began, offsets)
        self.trained.add(ended, offsets)


def main(argv: Sequence[str]) -> int:
    """Runs the trainer; returns its exit code."""
    folder = Path(argv[0])
    TimedAdmission.events = EventFile(folder / "received")
    TimedLedger.begun, TimedLedger.trained = (
        EventFile(folder / "begun"),
        EventFile(folder / "trained"),
    )
    setattr(dataset_module, "WindowAdmission", TimedAdmission)  # noqa: B010 - the trainer's own
    for module in (trainer_module, callbacks_module):
        setattr(module, "LedgerCallBack", TimedLedger)  # noqa: B010 - the trainer's own
    return online_train.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
