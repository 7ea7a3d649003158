"""The trainer as one of several ranks: here ranks are plugged into the trainer for one device.

Rank 0 alone reads and writes files, talks to the broker and prints. The other ranks read their
shard and train. All ranks start, step, save and stop together.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mindspore as ms

from src.channel.attaching import PacedLog
from src.channel.receiver import WindowReceiver
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import Unit
from src.checkpoints.unit_writer import Moment, UnitWriter
from src.config import Config
from src.model.crosses import CrossLearner
from src.model.model_config import ModelConfig
from src.model.networks import PredictNet, TrainNet
from src.model.wide_and_deep import NetWithLossClass
from src.process.exit_handlers import exit_without_handlers, keep_modules_until_exit
from src.process.stop import IdleLimit, StopFlag
from src.ranks.group import Ranks, first_line
from src.ranks.meeting import meet, serve_as_scheduler
from src.ranks.placement import NOT_MET_EXIT_CODE, Placement, RankError, Role, cpu_is_meant
from src.ranks.rounds import ROUND_SECONDS, Lockstep, SharedClosing, SharedSession
from src.ranks.train_step import RankStepWithCrosses, RankTrainStep
from src.stream.position import Position
from src.trainer.admission import StreamStart
from src.trainer.callbacks import LedgerCallBack, TrainingProgress
from src.trainer.consumer_link import ConsumerLink, TrainError
from src.trainer.dataset import StreamingDataset
from src.trainer.publish_callback import PublishCallBack
from src.trainer.service import TrainFunction, run_to_the_end, set_up_mindspore
from src.trainer.step_together import RankStream, StepTogether
from src.trainer.trainer import Trainer

logger = logging.getLogger(__name__)

ACKNOWLEDGE_SECONDS = 1.0


def run_rank(config: Config, flag: StopFlag, placement: Placement, train: TrainFunction) -> int:
    """Trains until the flag is set, on this or on another rank; a rank on the CPU ends in it.

    Args:
        config: The trainer's configuration.
        flag: The stop flag.
        placement: What this process is in the launch: a rank or the scheduler.
        train: One training run.

    Returns:
        0; 1 after an error, which is logged; ``NOT_MET_EXIT_CODE`` where the ranks did not meet.
    """
    # All ranks must choose the same device, and before they meet.
    device = "CPU" if cpu_is_meant(config.device_target) else "GPU"
    set_up_mindspore(device)
    if placement.role is Role.SCHEDULER:
        serve_as_scheduler()
    if config.admit_count:
        logger.error(
            "admit_count: only a trainer that is alone lets its vocabulary grow, "
            "this is one of %d ranks",
            placement.size,
        )
        return 1
    try:
        ranks = meet(placement)
    except RankError as error:
        logger.error("%s", error)
        return NOT_MET_EXIT_CODE
    logger.info("training on the %s", device)
    if not ranks.is_first:
        config = _writing_nothing(config)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - rank 0 prints the loss lines for all
    try:
        code = run_to_the_end(config, train, lambda: RankTrainer(config, flag, ranks))
    finally:
        keep_modules_until_exit()
    if device == "CPU" and placement.role is Role.WORKER:
        # MindSpore acknowledges the others' last exchange in a thread. A rank whose neighbour is
        # gone before that waits for half a minute.
        time.sleep(ACKNOWLEDGE_SECONDS)
        exit_without_handlers(code)
    return code


def _writing_nothing(config: Config) -> Config:
    """What another rank than 0 is configured with: it leaves files and ports to rank 0."""
    return replace(config, loss_file_name="", audit_path="", metrics_path="", metrics_port=0)


class RankTrainer(Trainer):
    """One rank's part of a training run.

    Args:
        config: The configuration.
        flag: Stops the run on all ranks.
        ranks: All ranks, seen from this one.
    """

    def __init__(self, config: Config, flag: StopFlag, ranks: Ranks) -> None:
        super().__init__(config, flag)
        self._ranks = ranks
        self.workers = ms.Callback()  # of several ranks on the same CPUs; bound they were slower
        self._lockstep = Lockstep(ranks, flag)
        self._shared = SharedSession()
        # A pipeline must not end by itself while other ranks count on its next batch.
        self.stream_flag = StopFlag()
        self._closing_by_time = SharedClosing(self.stream_flag)
        self.idle = IdleLimit(self.stream_flag, 0)  # all ranks agree on it before each step
        self.link = RankLink(config, flag, self.stream_flag, ranks, self._lockstep)

    def make_step(
        self, network: NetWithLossClass, config: ModelConfig, crosses: CrossLearner | None
    ) -> TrainNet:
        """The training step of this rank."""
        rank, size = self._ranks.rank, self._ranks.size
        step = RankTrainStep(network, config, rank, size)
        return step if crosses is None else RankStepWithCrosses(step, crosses, rank, size)

    def open_checkpoints(self) -> None:
        """Has rank 0 find the newest checkpoint.

        Raises:
            RankError: It could not; its log says why.
        """
        self._lockstep.on_first(super().open_checkpoints)

    def begin_session(self) -> StreamStart:
        """Has rank 0 begin a session, and shares with all ranks where it starts."""
        start = self._lockstep.on_first(super().begin_session)
        shared = self._ranks.share(None if start is None else _packed_start(start, self.progress))
        if start is None:
            start, step = _unpacked_start(shared, self._config)
            self.progress = TrainingProgress(step, start.position)
        return start

    def restore(self, network: TrainNet) -> None:
        """Gives all ranks the weights and the optimizer state that rank 0 starts with."""
        super().restore(network)
        sent = self._ranks.make_equal(network)
        logger.info(
            "weights are equal on all %d ranks (%d parameters sent)", self._ranks.size, sent
        )

    def make_writer(self, network: TrainNet) -> UnitWriter:
        """Has rank 0 write for all."""
        return RankWriter(
            network, self._store, self._moment, self._commit, self._ranks, self._lockstep
        )

    def step_callbacks(self, stream: StreamingDataset) -> tuple[LedgerCallBack, ms.Callback]:
        """The same with batches that are global, and steps that all ranks agree on."""
        config = self._config
        self._stream = stream
        together = StepTogether(
            lockstep=self._lockstep,
            ranks=self._ranks,
            stream=RankStream(stream, self.stream_flag),
            progress=self.progress,
            flag=self.flag,
            batch_size=config.batch_size,
            max_steps=config.max_steps,
            idle=IdleLimit(self.flag, config.idle_seconds, self.link.are_rows_held_back),
            shared=self._shared,
            closing=self._closing_by_time,
            read_again=super().read_again,
        )
        self._ledger = LedgerCallBack(self.progress, together, config.audit_path)
        return self._ledger, together

    def metrics_callback(self) -> ms.Callback:
        """Rank 0 reports for all."""
        return super().metrics_callback() if self._ranks.is_first else ms.Callback()

    def publish_callback(self, network: PredictNet, knows_all_ids: bool = False) -> PublishCallBack:
        """Rank 0 publishes for all, and knows only the ids of its own rows."""
        return super().publish_callback(network, knows_all_ids)

    def rows_to_train(self, number: int, rows: int) -> int:
        """Has all ranks close the number-th batch at the same row, or none."""
        return self._closing_by_time.offer(number, rows)

    def read_again(self) -> int:
        """Has rank 0 request the rows again in the next round."""
        return self._shared.ask()

    def close(self) -> None:
        """Leaves the broker, the channel and the engine."""
        self._shared.close()
        super().close()

    def _unexpected(self, error: Exception) -> Exception:
        """A stop is agreed on before a step and ends it on no rank: this is a failure."""
        self.flag.set("training failed")
        if type(error) is not RuntimeError:
            return error
        return TrainError(f"rank {self._ranks.rank}: {first_line(error)}")

    def _report(self, stream: StreamingDataset, seconds: float) -> None:
        if self._ranks.is_first:
            super()._report(stream, seconds)


class RankWriter(UnitWriter):
    """Writes each unit within a step: on return every rank knows that it is durable.

    Args:
        network: All its parameters are saved, the optimizers' state with them.
        owner: Holds the lock of the folder, on rank 0.
        moment: Returns the rest of the state, on rank 0.
        on_durable: Called with each unit, on rank 0.
        ranks: All ranks, seen from this one.
        lockstep: Their rounds.
    """

    def __init__(
        self,
        network: ms.nn.Cell,
        owner: CheckpointStore,
        moment: Callable[[], Moment],
        on_durable: Callable[[Unit, bool], None],
        ranks: Ranks,
        lockstep: Lockstep,
    ) -> None:
        super().__init__(network, owner, moment, on_durable)
        self._ranks = ranks
        self._lockstep = lockstep

    def write(self, store: CheckpointStore) -> None:
        """Has rank 0 write for all.

        Raises:
            RankError: The ranks' parameters differ, or rank 0 could not write.
            CheckpointError, OutputError: It could not be written, on rank 0.
        """
        self._ranks.verify_equal(self._network)
        write = super().write
        self._lockstep.on_first(lambda: write(store))


def _packed_start(start: StreamStart, progress: TrainingProgress) -> dict[str, Any]:
    """What other ranks need of rank 0's start, for JSON."""
    return {
        "step": progress.step,
        "position": start.position.to_json(),
        "session": start.session,
        "dictionaries": start.dictionaries,
    }


def _unpacked_start(fields: dict[str, Any], config: Config) -> tuple[StreamStart, int]:
    """(start, step) from what ``_packed_start`` returned on rank 0."""
    position = Position.from_json(fields["position"])
    start = StreamStart.of(config, position, fields["session"], fields["dictionaries"])
    return start, int(fields["step"])


class RankLink(ConsumerLink):
    """Attaches each rank to its shard, all of them or none.

    Args:
        config: Names of the channel, topic and group, and how long to wait.
        flag: Stops the run on all ranks.
        stream_flag: Ends this rank's stream of batches.
        ranks: All ranks, seen from this one.
        lockstep: Their rounds.
    """

    def __init__(
        self,
        config: Config,
        flag: StopFlag,
        stream_flag: StopFlag,
        ranks: Ranks,
        lockstep: Lockstep,
    ) -> None:
        super().__init__(config, flag, stream_flag, ranks.rank, ranks.size)
        self._lockstep = lockstep

    def wait(self) -> WindowReceiver | None:
        """Waits until every rank is attached; None where all ranks are to stop."""
        began = time.monotonic()
        log = PacedLog(logger.info)
        found: list[WindowReceiver] = []

        def attempt() -> bool:
            until = time.monotonic() + ROUND_SECONDS
            receiver = self.attach(
                lambda: self.waited_in_vain(began) or time.monotonic() >= until, log
            )
            found.extend([receiver] if receiver is not None else [])
            return receiver is not None

        return found[0] if self._lockstep.until_all(attempt) else None

    def _described(self) -> str:
        return f"this trainer has {self.num_shards} ranks"
