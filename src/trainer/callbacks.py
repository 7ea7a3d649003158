"""What happens after each step: the ledger, the documented loss line, checkpoints and the stop.

Steps are counted here and not taken from MindSpore. They continue across restarts, and are the same
in feed mode and in sink mode.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore.train import CheckpointConfig, ModelCheckpoint

from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit_writer import UnitWriter
from src.dictionaries.growing.vocabulary import Change
from src.model.workers import bind_workers
from src.process.output import OutputError, say
from src.process.stop import StopFlag
from src.stream.position import Position
from src.trainer.audit_trail import audit_line
from src.trainer.dataset import BatchRecord
from src.watching.line_file import LineFile

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.05


class TrainingStopped(Exception):  # noqa: N818 - a stop that was asked for is no error
    """Raised from a callback: ``RecModel.online_train`` has no other way to end."""


class NonFiniteLoss(RuntimeError):  # noqa: N818
    """A loss is NaN or infinite; the weights are spoilt and are not saved."""


@dataclass
class TrainingProgress:
    """How far training has come.

    Attributes:
        step: Steps since the very first start, across restarts.
        position: The position after the last step.
        dictionaries: Fingerprint of the dictionaries of the last batch.
        batch: What the last batch was made of; None before this run's first step.
        steps_done: Steps of this run.
        rows_done: Rows of this run.
        first_losses: (wide, deep) of this run's first step.
        last_losses: (wide, deep) of its last one.
    """

    step: int
    position: Position
    dictionaries: int = 0
    batch: BatchRecord | None = None
    steps_done: int = 0
    rows_done: int = 0
    first_losses: tuple[float, float] | None = None
    last_losses: tuple[float, float] | None = None


class Ledger(Protocol):
    """Holds what each batch was made of."""

    def next_batch(self) -> BatchRecord:
        """The oldest batch's record that was not returned yet."""


class LedgerCallBack(ms.Callback):  # type: ignore[misc]
    """Moves the progress past the batch of each step, and writes the audit trail.

    It comes first: the callbacks after it read the progress.

    Args:
        progress: Is moved.
        ledger: Returns what the step's batch was made of.
        audit_path: A file to which each step's row ranges are appended as JSON lines; "" for none.
            ``begin_audit`` must have prepared it.
        follow: Lets the trained vocabulary follow what a step's batch has changed in it.

    Raises:
        OutputError: The audit file can't be opened.
    """

    def __init__(
        self,
        progress: TrainingProgress,
        ledger: Ledger,
        audit_path: str,
        follow: Callable[[Change], None] | None = None,
    ) -> None:
        super().__init__()
        self._progress = progress
        self._ledger = ledger
        self._audit = LineFile(audit_path)
        self._follow = follow

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the audit file; MindSpore calls this however training ends."""
        self._audit.close()

    def sync(self) -> None:
        """Makes the trail durable, before a checkpoint that holds its steps becomes so."""
        self._audit.sync()

    def on_train_step_end(self, run_context: Any) -> None:
        """Takes the record of the step's batch.

        Raises:
            OutputError: The audit file can't be written.
        """
        record = self._ledger.next_batch()
        progress = self._progress
        progress.step += 1
        progress.steps_done += 1
        progress.rows_done += record.rows
        progress.position = record.position
        progress.dictionaries = record.dictionaries
        progress.batch = record
        self._audit.append(*(audit_line(progress.step, rows) for rows in record.ranges))
        if record.change is not None and self._follow is not None:
            self._follow(record.change)


class LossCallBack(ms.Callback):  # type: ignore[misc]
    """Prints and appends to a file the documented line with both losses of each step.

    Args:
        progress: Holds the step, and keeps the first and last losses.
        loss_file_name: The file; "" for none.

    Raises:
        OutputError: The loss file can't be opened.
    """

    def __init__(self, progress: TrainingProgress, loss_file_name: str) -> None:
        super().__init__()
        self._progress = progress
        self._file = LineFile(loss_file_name)

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the loss file; MindSpore calls this however training ends."""
        self._file.close()

    def on_train_step_end(self, run_context: Any) -> None:
        """Reports the step.

        Raises:
            NonFiniteLoss: A loss is NaN or infinite.
            OutputError: The loss file or standard output can't be written.
        """
        outputs = run_context.original_args().net_outputs
        wide, deep = (np.float32(loss.asnumpy().reshape(-1)[0]) for loss in outputs[:2])
        line = loss_line(self._progress.step, wide, deep)
        if not say(line):
            raise OutputError("can't write the losses to standard output: its reader has left")
        self._file.append(line)
        if not (np.isfinite(wide) and np.isfinite(deep)):
            raise NonFiniteLoss(f"the loss is not finite: {line}")
        losses = (float(wide), float(deep))
        if self._progress.first_losses is None:
            self._progress.first_losses = losses
        self._progress.last_losses = losses


def loss_line(step: int, wide_loss: np.float32, deep_loss: np.float32) -> str:
    """The documented line; the epoch of an endless stream is always 1."""
    # A format without !s would show a float32 with the digits of a float64.
    return f"epoch: 1, step: {step}, wide_loss: {wide_loss!s}, deep_loss: {deep_loss!s}"


class StreamCheckpoint(ModelCheckpoint):  # type: ignore[misc]
    """A ``ModelCheckpoint`` whose checkpoints hold the position in the stream too.

    Unlike its base class it counts the global step, across restarts and in sink mode. Checkpoints
    are written beside training where that is possible. One that is due while the one before it is
    still being written follows after that, between the next two steps. As no step may follow for a
    long time, the writer's thread begins it. A lock keeps it out of the steps.

    Args:
        prefix: How the names of the checkpoints begin.
        directory: Their folder.
        config: Steps between two checkpoints, and how many are kept.
        progress: Holds the step.
        writer: Writes them.
    """

    def __init__(
        self,
        prefix: str,
        directory: str,
        config: CheckpointConfig,
        progress: TrainingProgress,
        writer: UnitWriter,
    ) -> None:
        super().__init__(prefix, directory, config)
        self._store = CheckpointStore(Path(directory), prefix, config.keep_checkpoint_max)
        self._every_steps = config.save_checkpoint_steps
        self._progress = progress
        self._writer = writer
        self._saved_step = progress.step
        self._is_prepared = False
        self._is_due = False
        self._is_late = False
        self._outside_steps = threading.Lock()
        self._in_step = False
        self._has_ended = False

    def __exit__(self, *error: object) -> None:
        """From now on only ``save_now`` saves; MindSpore calls this however training ends."""
        self._has_ended = True
        if not self._in_step:
            with self._outside_steps:
                pass  # the thread is not about to begin a checkpoint

    def on_train_step_begin(self, run_context: Any) -> None:
        """Keeps the thread out until the step has ended."""
        self._outside_steps.acquire()
        self._in_step = True

    def on_train_step_end(self, run_context: Any) -> None:
        """Saves when it is time, and the checkpoint before it is written.

        Raises:
            CheckpointError, OutputError: This one or the one before it could not be written.
        """
        try:
            self._save_if_due()
        finally:
            if self._in_step:
                self._in_step = False
                self._outside_steps.release()

    def on_train_end(self, run_context: Any) -> None:
        """Does nothing: training ends by an exception, and ``save_now`` is called after it."""

    def save_now(self) -> None:
        """Saves the state after the last step, unless it is saved already; durable on return.

        Raises:
            CheckpointError, OutputError: It could not be written, or the one before it.
        """
        self._writer.wait()
        if self._progress.step == self._saved_step:
            return
        self._writer.write(self._store)
        self._saved_step = self._progress.step

    def _save_if_due(self) -> None:
        if not self._is_prepared:
            self._is_prepared = True
            self._writer.prepare()
        self._writer.check()
        is_time = self._progress.step % self._every_steps == 0
        if not (is_time or self._is_due):
            return
        if self._writer.is_writing:
            self._put_off()
        elif not self._begin():
            self.save_now()

    def _begin(self) -> bool:
        """Has a checkpoint written beside training; False where that is not possible."""
        # Once one is in time again, the next late one is named again.
        self._is_late = self._is_due
        self._is_due = False
        step = self._progress.step
        if not self._writer.begin(self._store):
            return False
        self._saved_step = step
        return True

    def _put_off(self) -> None:
        """Has a checkpoint follow that under way. It is said once until one is in time again."""
        if self._is_due:
            return
        self._is_due = True
        self._writer.do_after(self._begin_late)
        if not self._is_late:
            logger.warning(
                "step %d: the checkpoint of step %d is still being written, so the next one comes "
                "later; a larger --save_checkpoint_steps gives each its time",
                self._progress.step,
                self._saved_step,
            )

    def _begin_late(self) -> None:
        """In the writer's thread: begins what was put off, unless a step has ended before."""
        while not self._has_ended:
            if not self._outside_steps.acquire(timeout=LOOK_SECONDS):
                continue
            try:
                # What a step's end has begun meanwhile waits for this thread: not the other way.
                if self._is_due and not self._writer.is_writing and not self._has_ended:
                    self._writer.finish()
                    if not self._writer.has_failed:
                        self._begin()
                return
            finally:
                self._outside_steps.release()


class WorkersCallBack(ms.Callback):  # type: ignore[misc]
    """Binds MindSpore's workers to CPUs after the first step, with which they have come."""

    def __init__(self) -> None:
        super().__init__()
        self._is_first = True

    def on_train_step_end(self, run_context: Any) -> None:
        """Binds them once."""
        if self._is_first:
            self._is_first = False
            bind_workers()


class StopCallBack(ms.Callback):  # type: ignore[misc]
    """Ends training after the step in which the stop flag was set or ``max_steps`` was reached.

    Args:
        progress: Holds the steps of this run.
        flag: The stop flag.
        max_steps: Steps of this run; 0 for no limit.
    """

    def __init__(self, progress: TrainingProgress, flag: StopFlag, max_steps: int) -> None:
        super().__init__()
        self._progress = progress
        self._flag = flag
        self._max_steps = max_steps

    def on_train_step_end(self, run_context: Any) -> None:
        """Stops when it is time.

        Raises:
            TrainingStopped: It is time.
        """
        if self._flag.is_set():
            raise TrainingStopped(self._flag.reason)
        if self._max_steps and self._progress.steps_done >= self._max_steps:
            raise TrainingStopped(f"{self._max_steps} steps are done")
