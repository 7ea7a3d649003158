"""What happens after each step: the ledger, the documented loss line, checkpoints and the stop.

Steps are counted here and not taken from MindSpore: they go on across restarts, and are the same
in feed mode and in sink mode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import mindspore as ms
import numpy as np

from src.dictionaries.growth import Growth
from src.process.arrays import Array
from src.process.stop import StopFlag
from src.stream.position import Position
from src.trainer.audit_trail import audit_line
from src.trainer.checkpoint import CheckpointStore, Unit
from src.trainer.dataset import BatchRecord
from src.watching.line_file import LineFile

logger = logging.getLogger(__name__)


class TrainingStopped(Exception):  # noqa: N818 - a stop that was asked for is no error
    """Raised from a callback: ``RecModel.online_train`` knows no other way to end."""


class NonFiniteLoss(RuntimeError):  # noqa: N818
    """A loss is NaN or infinite; the weights are spoilt and are not saved."""


@dataclass
class TrainingProgress:
    """How far training has come.

    Attributes:
        step: Steps since the very first start, across restarts.
        position: The position behind the last step.
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
    """Knows what each batch was made of."""

    def next_batch(self) -> BatchRecord:
        """The record of the oldest batch not yet asked about."""


class LedgerCallBack(ms.Callback):  # type: ignore[misc]
    """Moves the progress behind the batch of each step, and writes the audit trail.

    Args:
        progress: Is moved.
        ledger: Says what the step's batch was made of.
        audit_path: A file to which each step's row ranges are appended as JSON lines; "" for none.
            ``begin_audit`` must have prepared it.

    Raises:
        OutputError: The audit file can't be opened.
    """

    def __init__(self, progress: TrainingProgress, ledger: Ledger, audit_path: str) -> None:
        super().__init__()
        self._progress = progress
        self._ledger = ledger
        self._audit = LineFile(audit_path)

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the audit file; MindSpore does so when training ends in whatever way."""
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


class GrowthCallBack(ms.Callback):  # type: ignore[misc]
    """Lets the trained vocabulary follow each step.

    It comes behind the ledger and before the checkpoint, which saves the vocabulary.

    Args:
        progress: Gives the step's batch.
        growth: The vocabulary.
        reset: Gives the rows of ids, int32[n], the values of fresh ones in all of the model.
    """

    def __init__(
        self, progress: TrainingProgress, growth: Growth, reset: Callable[[Array], None]
    ) -> None:
        super().__init__()
        self._progress = progress
        self._growth = growth
        self._reset = reset

    def on_train_step_end(self, run_context: Any) -> None:
        """Follows the step."""
        batch = self._progress.batch
        assert batch is not None and batch.change is not None, "the ledger comes first"
        self._growth.follow(batch.change, self._reset)


class LossCallBack(ms.Callback):  # type: ignore[misc]
    """Prints and appends to a file the documented line with both losses of each step.

    Args:
        progress: Gives the step, and keeps the first and last losses.
        loss_file_name: The file; "" for none.
        prints: Whether the line is printed: with several ranks one of them does.

    Raises:
        OutputError: The loss file can't be opened.
    """

    def __init__(
        self, progress: TrainingProgress, loss_file_name: str, prints: bool = True
    ) -> None:
        super().__init__()
        self._progress = progress
        self._prints = prints
        self._file = LineFile(loss_file_name)

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the loss file; MindSpore does so when training ends in whatever way."""
        self._file.close()

    def on_train_step_end(self, run_context: Any) -> None:
        """Reports the step.

        Raises:
            NonFiniteLoss: A loss is NaN or infinite.
            OutputError: The loss file can't be written.
        """
        outputs = run_context.original_args().net_outputs
        wide, deep = (np.float32(loss.asnumpy().reshape(-1)[0]) for loss in outputs[:2])
        line = loss_line(self._progress.step, wide, deep)
        if self._prints:
            print(line, flush=True)
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


class StreamCheckpoint(ms.Callback):  # type: ignore[misc]
    """Saves a checkpoint every so many steps, then tells that it is durable.

    Args:
        store: Where to.
        network: Its parameters are saved.
        progress: Gives step and position.
        every_steps: Steps between two checkpoints.
        topic: The topic of the position.
        model: What the weights' shapes follow from.
        on_saving: Called before a unit is written.
        on_saved: Called with each unit once it is durable.
        extra: Gives what else goes on with the weights, see ``CheckpointStore.save``.
        vocabulary: Gives the grown vocabulary, as bytes; empty where there is none.
    """

    def __init__(
        self,
        store: CheckpointStore,
        network: ms.nn.Cell,
        progress: TrainingProgress,
        every_steps: int,
        topic: str,
        model: Mapping[str, Any],
        on_saving: Callable[[], None],
        on_saved: Callable[[Unit], None],
        extra: Callable[[], Mapping[str, Any]] = dict,
        vocabulary: Callable[[], bytes] = bytes,
    ) -> None:
        super().__init__()
        self._store = store
        self._network = network
        self._progress = progress
        self._every_steps = every_steps
        self._topic = topic
        self._model = model
        self._on_saving = on_saving
        self._on_saved = on_saved
        self._extra = extra
        self._vocabulary = vocabulary
        self._saved_step = progress.step

    def on_train_step_end(self, run_context: Any) -> None:
        """Saves when it is time."""
        if self._progress.step % self._every_steps == 0:
            self.save_now()

    def save_now(self) -> None:
        """Saves the state behind the last step, unless it is saved already.

        Raises:
            CheckpointError: It could not be written.
        """
        progress = self._progress
        if progress.step == self._saved_step:
            return
        self._on_saving()
        unit = self._store.save(
            self._network,
            progress.step,
            progress.position,
            self._topic,
            progress.dictionaries,
            self._model,
            self._extra(),
            self._vocabulary(),
        )
        self._saved_step = progress.step
        logger.info("checkpoint %s at position %s", unit.path, unit.position)
        self._on_saved(unit)


class StopCallBack(ms.Callback):  # type: ignore[misc]
    """Ends training after the step in which the stop flag was set or ``max_steps`` was reached.

    Args:
        progress: Gives the steps of this run.
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
