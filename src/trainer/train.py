"""The resident trainer: a StreamingDataset feeding ``RecModel.online_train``, with checkpoints.

Guarantee: weights, optimizer state and position are saved as one unit, and the position is
committed to the Kafka group only after its checkpoint is durable. A restart goes on from the newest
valid checkpoint and names its session in the commit, which makes the consumer rewind to it: no row
is lost and none is trained twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import mindspore as ms
from mindspore import context
from mindspore.dataset import GeneratorDataset
from mindspore.dataset import config as dataset_config
from mindspore_rec import RecModel
from prometheus_client import CollectorRegistry, ProcessCollector

from src.channel.channel import (
    FREEZE_SECONDS,
    PacedLog,
    WindowReceiver,
    attach,
    engine_is_lost,
    finalize,
)
from src.config import Config
from src.dictionaries.growth import Growth
from src.dictionaries.vocabulary import GrowthSettings
from src.model.model_config import ModelConfig, computes_in_float16
from src.model.row_reset import RowReset
from src.model.train_step import GetWideDeepNet, TrainStepWrap
from src.process.stop import StopFlag
from src.ranks.group import Ranks, first_line
from src.ranks.train_step import RankTrainStep
from src.stream.kafka_source import RowSource
from src.stream.position import Commit, Position
from src.trainer.audit_trail import begin_audit
from src.trainer.callbacks import (
    GrowthCallBack,
    LedgerCallBack,
    LossCallBack,
    NonFiniteLoss,
    StopCallBack,
    StreamCheckpoint,
    TrainingProgress,
    TrainingStopped,
)
from src.trainer.checkpoint import CheckpointStore, Unit, read_unit, read_vocabulary
from src.trainer.dataset import DatasetError, StreamingDataset
from src.trainer.lockstep import (
    ROUND_SECONDS,
    CheckpointTogether,
    Lockstep,
    SharedSession,
    StepTogether,
)
from src.trainer.reporting import JsonLines, LagProbe, MetricsCallBack, StepTimer, restored_metrics
from src.trainer.session import TrainerSession
from src.watching.prometheus import TrainerNumbers, serving

logger = logging.getLogger(__name__)

COLUMN_NAMES = ["id", "weight", "label"]
READ_AHEAD_BATCHES = 4


class TrainError(RuntimeError):
    """Training can't start or go on; one line says why."""


def choose_device(device_target: str) -> str:
    """The device asked for, or for "auto" a GPU where MindSpore can use one, else the CPU."""
    if device_target != "auto":
        return device_target
    try:
        # MindSpore reports a missing driver as errors of its own: look for it first.
        ctypes.CDLL("libcuda.so.1")
        context.set_context(device_target="GPU")
        ms.ops.ones((1,), ms.float32).asnumpy()
    except (OSError, RuntimeError, ValueError) as error:
        logger.info("no usable GPU (%s)", str(error).strip().split("\n")[0])
        return "CPU"
    return "GPU"


def build_network(config: Config, rank: int = 0, size: int = 1) -> TrainStepWrap:
    """The training step of Wide&Deep as the configuration describes it, for one of some ranks."""
    model_config = model_config_of(config)
    if config.use_mixed_precision and not computes_in_float16(model_config):
        logger.info("use_mixed_precision: the CPU computes in float32 all the same")
    if size == 1:
        return GetWideDeepNet(model_config)[0]
    return GetWideDeepNet(model_config, lambda losses, own: RankTrainStep(losses, own, rank, size))[
        0
    ]


def model_config_of(config: Config) -> ModelConfig:
    """The part of the configuration that describes the model."""
    fields = asdict(config)
    return ModelConfig(**{name: fields[name] for name in ModelConfig.__dataclass_fields__})


def model_shape(config: Config) -> dict[str, object]:
    """What two runs must agree on to share a checkpoint."""
    return {
        "field_size": config.field_size,
        "vocab_size": config.vocab_size,
        "emb_dim": config.emb_dim,
        "deep_layer_dim": list(config.deep_layer_dim),
        "sparse": config.sparse,
        "l2_coef": config.l2_coef,
        "deep_layer_act": config.deep_layer_act,
        # Only where they differ from the default: older checkpoints have no word of them.
        **(
            {"dense_transform": config.dense_transform}
            if config.dense_transform != "minmax"
            else {}
        ),
        **({"growing_vocabulary": True} if config.admit_count else {}),
    }


def growth_of(config: Config, unit: Optional[Unit]) -> Optional[Growth]:
    """The growing vocabulary that goes with a checkpoint's weights, or with new ones.

    Returns:
        None where the configuration lets none grow.

    Raises:
        CheckpointError, VocabularyError: The checkpoint's can't be read.
    """
    if not config.admit_count:
        return None
    saved = read_vocabulary(unit) if unit is not None else None
    settings = GrowthSettings(config.admit_count, config.expire_rows)
    return Growth(settings, config.vocab_size, saved)


@dataclass(frozen=True)
class Start:
    """Where training starts, as all ranks know it.

    Attributes:
        step: Steps trained so far.
        position: The position behind them.
        session: Of which windows are taken.
        dictionaries: Fingerprint of the dictionaries that the weights were trained with; None
            where they are new.
    """

    step: int
    position: Position
    session: int
    dictionaries: Optional[int]

    def to_json(self) -> dict[str, object]:
        """The start as JSON knows it."""
        return {**vars(self), "position": self.position.to_json()}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Start:
        """Reads what ``to_json`` gave."""
        return Start(**{**fields, "position": Position.from_json(fields["position"])})


@dataclass(frozen=True)
class Opened:
    """What rank 0 alone holds: the checkpoint and the broker.

    Attributes:
        unit: The checkpoint that training goes on from.
        origin: The one whose weights it starts with: that, or ``init_ckpt``'s.
        source: The broker.
        session: The trainer's session.
    """

    unit: Optional[Unit]
    origin: Optional[Unit]
    source: RowSource
    session: TrainerSession


class Trainer:
    """One trainer process from start to stop, alone or as one of several ranks.

    Args:
        config: What it was told.
        flag: Stops it, and with it all ranks.
        ranks: Its place among them. Rank 0 alone reads and writes files, talks to the broker and
            prints; the others read their shard and train.
    """

    def __init__(self, config: Config, flag: StopFlag, ranks: Optional[Ranks] = None) -> None:
        self._config = config
        self._flag = flag
        self._ranks = ranks or Ranks()
        self._lockstep = Lockstep(self._ranks, flag)
        # A pipeline must not end by itself while other ranks count on its next batch.
        self._stream_flag = flag if self._ranks.alone else StopFlag()
        self._shared = SharedSession()
        self._store = CheckpointStore(
            Path(config.ckpt_path), config.ckpt_prefix, config.keep_checkpoint_max
        )
        self._dataset: Optional[StreamingDataset] = None
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._numbers = TrainerNumbers(self._registry)

    def run(self) -> None:
        """Trains until the flag is set; leaves a last checkpoint.

        Raises:
            TrainError, CheckpointError, ChannelError, SourceError, DatasetError, GapError,
            NonFiniteLoss, MetricsServerError, RankError: One line says what went wrong.
        """
        config = self._config
        port = config.metrics_port if self._ranks.is_first else 0
        with serving(self._registry, port, config.metrics_host):
            self._run()

    def _run(self) -> None:
        unit = self._lockstep.on_first(self._newest_unit)
        receiver = self._attach_first()
        if receiver is None:
            return
        with contextlib.ExitStack() as stack:
            opened = self._lockstep.on_first(lambda: self._open(unit, stack))
            start = self._shared_start(opened)
            network = self._build(opened)
            growth = growth_of(self._config, opened.origin if opened else None)
            self._dataset = self._open_stream(receiver, start, opened, growth)
            self._train(network, start, opened, growth)

    def _newest_unit(self) -> Optional[Unit]:
        config = self._config
        self._store.lock()
        if config.fresh:
            self._store.set_aside()
        unit = self._store.newest()
        if unit is not None:
            self._store.check(unit, config.topic, unit.dictionaries, model_shape(config))
        return unit

    def _open(self, unit: Optional[Unit], stack: contextlib.ExitStack) -> Opened:
        """Begins a session with the consumer."""
        source = stack.enter_context(self._open_source())
        position = self._starting_position(source, unit)
        session = TrainerSession(source, self._open_source, position, self._ranks.size)
        origin = self._initial_unit() if unit is None else unit
        begin_audit(self._config.audit_path, unit.step if unit else 0, self._config.fresh)
        return Opened(unit, origin, source, session)

    def _shared_start(self, opened: Optional[Opened]) -> Start:
        """Tells all ranks where rank 0 starts."""
        told = None
        if opened is not None:
            step = opened.unit.step if opened.unit else 0
            dictionaries = opened.origin.dictionaries if opened.origin else None
            session = opened.session
            told = Start(step, session.position, session.number, dictionaries).to_json()
        return Start.from_json(self._ranks.share(told))

    def _initial_unit(self) -> Optional[Unit]:
        """The checkpoint that a model begins with instead of random weights."""
        config = self._config
        if not config.init_ckpt:
            return None
        unit = read_unit(Path(config.init_ckpt))
        self._store.check(unit, unit.topic, unit.dictionaries, model_shape(config))
        logger.info("starting with the weights of %s", unit.path)
        return unit

    def _open_source(self) -> RowSource:
        config = self._config
        return RowSource(
            config.bootstrap_servers,
            config.topic,
            config.group_id,
            config.reconnect_seconds,
            self._flag.is_set,
        )

    def _attach_first(self) -> Optional[WindowReceiver]:
        """Waits for the consumer for as long as it takes; None where all ranks are to stop."""
        config = self._config
        began = time.monotonic()
        log = PacedLog(logger.info)
        found: list[WindowReceiver] = []

        def attempt() -> bool:
            until = time.monotonic() + ROUND_SECONDS

            def give_up() -> bool:
                idle = time.monotonic() - began
                if config.idle_seconds and idle >= config.idle_seconds:
                    self._flag.set(f"no consumer for {config.idle_seconds:g} s")
                return self._flag.is_set() or time.monotonic() >= until

            receiver = self._attach(give_up, log)
            found.extend([receiver] if receiver is not None else [])
            return receiver is not None

        return found[0] if self._lockstep.until_all(attempt) else None

    def _attach_again(self) -> Optional[WindowReceiver]:
        """Waits for the consumer's return for ``reconnect_seconds``.

        When it is the engine that went away, the consumer may have to thaw first.
        """
        patience = self._config.reconnect_seconds + (FREEZE_SECONDS if engine_is_lost() else 0.0)
        give_up_at = time.monotonic() + patience

        def give_up() -> bool:
            return self._stream_flag.is_set() or time.monotonic() >= give_up_at

        receiver = self._attach(give_up, PacedLog(logger.info))
        if receiver is None and not self._stream_flag.is_set():
            raise DatasetError(f"no consumer came back within {patience:g} s")
        return receiver

    def _attach(self, give_up: Callable[[], bool], log: PacedLog) -> Optional[WindowReceiver]:
        config, ranks = self._config, self._ranks
        receiver = attach(
            *(config.address, config.namespace, config.dataset_name, ranks.rank), give_up, log
        )
        if receiver is not None and receiver.num_shards != ranks.size:
            if ranks.is_first:
                self._tell_how_many_ranks()
            here = (
                "this trainer is the only rank"
                if ranks.alone
                else f"this trainer has {ranks.size} ranks"
            )
            raise TrainError(
                f"the consumer was started with --num_shards={receiver.num_shards}, "
                f"{here}: both must be equal"
            )
        return receiver

    def _tell_how_many_ranks(self) -> None:
        """Lets a consumer with another number of shards know that it waits in vain."""
        with self._open_source() as source:
            committed = source.committed()
            if committed is not None:
                TrainerSession(source, self._open_source, committed.position, self._ranks.size)

    def _starting_position(self, source: RowSource, unit: Optional[Unit]) -> Position:
        """The checkpoint's position, or without one that which the consumer has committed."""
        if unit is not None:
            position = unit.position
            logger.info("resuming at step %d, position %s, from %s", unit.step, position, unit.path)
            _warn_of_commit_ahead(source.committed(), position)
        else:
            committed = source.committed()
            if committed is None:
                raise TrainError("the consumer has not committed where the stream starts")
            position = committed.position
            logger.info("starting afresh at position %s", position)
        return position

    def _on_saved(self, session: TrainerSession, unit: Unit) -> None:
        self._numbers.on_saved(unit.position.offsets)
        session.commit(unit.position)

    def _build(self, opened: Optional[Opened]) -> TrainStepWrap:
        """The network, with equal weights and optimizer state on all ranks."""
        ms.set_seed(self._config.seed)
        network = build_network(self._config, self._ranks.rank, self._ranks.size)
        network.set_train()
        if opened is not None and opened.origin is not None:
            self._store.restore(opened.origin, network)
        sent = self._ranks.make_equal(network)
        if not self._ranks.alone:
            logger.info(
                "weights are equal on all %d ranks (%d parameters sent)", self._ranks.size, sent
            )
        return network

    def _open_stream(
        self,
        receiver: WindowReceiver,
        start: Start,
        opened: Optional[Opened],
        growth: Optional[Growth],
    ) -> StreamingDataset:
        receivers = [receiver]

        def attach_next() -> Optional[WindowReceiver]:
            return receivers.pop() if receivers else self._attach_again()

        return StreamingDataset(
            attach_next,
            start.position,
            start.session,
            self._config.batch_size,
            self._stream_flag,
            self._config.idle_seconds if self._ranks.alone else 0,
            start.dictionaries,
            self._config.dense_transform,
            growth,
            opened.session.read_again if opened and self._ranks.alone else self._shared.ask,
        )

    def _train(
        self,
        network: TrainStepWrap,
        start: Start,
        opened: Optional[Opened],
        growth: Optional[Growth],
    ) -> None:
        config, stream, ranks = self._config, self._dataset, self._ranks
        assert stream is not None
        progress = TrainingProgress(start.step, start.position)
        together = None if ranks.alone else self._step_together(stream, progress, opened)
        ledger = LedgerCallBack(
            progress, together or stream, config.audit_path if ranks.is_first else ""
        )
        loss_file = config.loss_file_name if ranks.is_first else ""
        losses = LossCallBack(progress, loss_file, prints=ranks.is_first)
        watching: list[ms.Callback] = []
        timer = StepTimer()
        saving: Optional[StreamCheckpoint] = None
        if opened is not None:
            metrics = self._metrics_callback(progress, timer, opened)
            saving = self._saving(network, progress, ledger, metrics, opened, growth)
            watching = [metrics]
        checkpoint = (
            saving
            if saving is not None and ranks.alone
            else CheckpointTogether(
                *(self._lockstep, ranks, network, progress, config.save_checkpoint_steps), saving
            )
        )
        grow = [] if growth is None else [_growth_callback(progress, growth, network)]
        callbacks = [
            ms.TimeMonitor(1),
            ledger,
            *grow,
            losses,
            *watching,
            checkpoint,
            timer,
            together or StopCallBack(progress, self._flag, config.max_steps),
        ]
        began = time.monotonic()
        try:
            self._online_train(network, stream, callbacks)
        finally:
            if progress.steps_done and ranks.is_first:
                report(progress, stream, time.monotonic() - began)
        checkpoint.save_now()

    def _step_together(
        self, stream: StreamingDataset, progress: TrainingProgress, opened: Optional[Opened]
    ) -> StepTogether:
        config = self._config
        return StepTogether(
            lockstep=self._lockstep,
            ranks=self._ranks,
            stream=stream,
            progress=progress,
            flag=self._flag,
            batch_size=config.batch_size,
            max_steps=config.max_steps,
            idle_seconds=config.idle_seconds,
            shared=self._shared,
            read_again=opened.session.read_again if opened else int,
        )

    def _saving(
        self,
        network: TrainStepWrap,
        progress: TrainingProgress,
        ledger: LedgerCallBack,
        metrics: MetricsCallBack,
        opened: Opened,
        growth: Optional[Growth],
    ) -> StreamCheckpoint:
        config = self._config
        return StreamCheckpoint(
            store=self._store,
            network=network,
            progress=progress,
            every_steps=config.save_checkpoint_steps,
            topic=config.topic,
            model=model_shape(config),
            on_saving=ledger.sync,
            on_saved=lambda unit: self._on_saved(opened.session, unit),
            extra=metrics.state,
            vocabulary=growth.dump if growth is not None else bytes,
        )

    def _metrics_callback(
        self,
        progress: TrainingProgress,
        timer: StepTimer,
        opened: Opened,
    ) -> MetricsCallBack:
        config = self._config
        return MetricsCallBack(
            progress=progress,
            metrics=restored_metrics(opened.unit, config.metrics_window_rows),
            timer=timer,
            lag=LagProbe(opened.source.try_ends),
            report_steps=config.report_steps,
            output=JsonLines(config.metrics_path),
            session=opened.session.number,
            numbers=self._numbers,
        )

    def _online_train(
        self, network: TrainStepWrap, stream: StreamingDataset, callbacks: list[ms.Callback]
    ) -> None:
        """Returns when training was stopped, however MindSpore puts it."""
        dataset_config.set_prefetch_size(READ_AHEAD_BATCHES)
        dataset = GeneratorDataset(
            stream,
            COLUMN_NAMES,
            shuffle=False,
            num_parallel_workers=1,
            python_multiprocessing=False,
        )
        try:
            self._run_model(network, dataset, callbacks)
        except TrainingStopped as stopped:
            self._flag.set(str(stopped))
        except NonFiniteLoss:
            self._flag.set("the loss is not finite")
            raise
        except RuntimeError as error:
            # An iterator that ends is an error to MindSpore; to us it is the stop we asked for.
            if stream.failure is not None:
                self._flag.set("the stream failed")
                raise stream.failure from None
            if not self._ranks.alone:
                # A stop is agreed on before a step and ends it on no rank: this is a failure.
                self._flag.set("training failed")
                if type(error) is not RuntimeError:
                    raise
                raise TrainError(f"rank {self._ranks.rank}: {first_line(error)}") from None
            if not self._flag.is_set():
                self._flag.set("training failed")
                raise
        finally:
            self._stream_flag.set("training has ended")
        logger.info("stopping: %s", self._flag.reason)

    def _run_model(
        self, network: TrainStepWrap, dataset: GeneratorDataset, callbacks: list[ms.Callback]
    ) -> None:
        try:
            RecModel(network).online_train(dataset, callbacks=callbacks, dataset_sink_mode=True)
        finally:
            if not self._ranks.alone:
                # With the exception MindSpore's pipeline goes, and waits for a pending batch.
                self._stream_flag.set("training has ended")

    def close(self) -> None:
        """Leaves the channel and the engine."""
        self._flag.set("closing")
        self._stream_flag.set("closing")
        self._shared.close()
        self._store.unlock()
        if self._dataset is not None:
            self._dataset.close()
        finalize()


def _growth_callback(
    progress: TrainingProgress, growth: Growth, network: TrainStepWrap
) -> GrowthCallBack:
    return GrowthCallBack(progress, growth, RowReset(network.row_state()))


def _warn_of_commit_ahead(commit: Optional[Commit], position: Position) -> None:
    """Says that somebody has committed what no checkpoint holds; the checkpoint is what counts."""
    offsets = commit.position.offsets if commit else {}
    for number, offset in position.offsets.items():
        ahead = offsets.get(number, offset) - offset
        if ahead > 0:
            logger.warning(
                "partition %d: the commit at offset %d is %d rows ahead of the checkpoint, "
                "going back to the checkpoint",
                *(number, offset + ahead, ahead),
            )


def report(progress: TrainingProgress, stream: StreamingDataset, seconds: float) -> None:
    """Logs what was trained."""
    logger.info(
        "trained %d steps, %d rows in %.1f s (%.0f rows/s), skipped %d rows, dropped %d stale rows",
        progress.steps_done,
        progress.rows_done,
        seconds,
        progress.rows_done / seconds,
        stream.skipped_rows,
        stream.stale_rows,
    )
