"""The resident trainer: a StreamingDataset feeding ``RecModel.online_train``, with checkpoints.

Guarantee: weights, optimizer state and position are saved as one unit, and the position is
committed to the Kafka group only after its checkpoint is durable. A restart goes on from the newest
valid checkpoint and names its session in the commit, which makes the consumer rewind to it: no row
is lost and none is trained twice.
"""

from __future__ import annotations

import ctypes
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Callable, Optional

import mindspore as ms
from mindspore import context
from mindspore.dataset import GeneratorDataset
from mindspore.dataset import config as dataset_config
from mindspore_rec import RecModel
from prometheus_client import CollectorRegistry, ProcessCollector

from src.callbacks import (
    GrowthCallBack,
    LedgerCallBack,
    LossCallBack,
    NonFiniteLoss,
    StopCallBack,
    StreamCheckpoint,
    TrainingProgress,
    TrainingStopped,
)
from src.channel import FREEZE_SECONDS, PacedLog, WindowReceiver, attach, engine_is_lost, finalize
from src.checkpoint import CheckpointStore, Unit, read_unit, read_vocabulary
from src.config import Config
from src.dataset import DatasetError, StreamingDataset
from src.exposition import TrainerNumbers, serving
from src.growth import Growth
from src.kafka_source import RowSource
from src.line_file import begin_audit
from src.position import Commit, Position
from src.reporting import JsonLines, LagProbe, MetricsCallBack, StepTimer, restored_metrics
from src.row_reset import RowReset
from src.stop import StopFlag
from src.trainer_session import TrainerSession
from src.vocabulary import GrowthSettings
from src.wide_and_deep import (
    ModelConfig,
    NetWithLossClass,
    TrainStepWrap,
    WideDeepModel,
    computes_in_float16,
)

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


def build_network(config: Config) -> TrainStepWrap:
    """The training step of Wide&Deep as the configuration describes it."""
    model_config = model_config_of(config)
    if config.use_mixed_precision and not computes_in_float16(model_config):
        logger.info("use_mixed_precision: the CPU computes in float32 all the same")
    network = NetWithLossClass(WideDeepModel(model_config), model_config)
    return TrainStepWrap(network, model_config)


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


class Trainer:
    """One trainer process from start to stop."""

    def __init__(self, config: Config, flag: StopFlag) -> None:
        self._config = config
        self._flag = flag
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
            NonFiniteLoss, ExpositionError: One line says what went wrong.
        """
        with serving(self._registry, self._config.metrics_port, self._config.metrics_host):
            self._run()

    def _run(self) -> None:
        config = self._config
        self._store.lock()
        if config.fresh:
            self._store.set_aside()
        unit = self._store.newest()
        if unit is not None:
            self._store.check(unit, config.topic, unit.dictionaries, model_shape(config))
        receiver = self._attach_first()
        if receiver is None:
            return
        with self._open_source() as source:
            position = self._starting_position(source, unit)
            session = TrainerSession(source, self._open_source, position)
            origin = self._initial_unit() if unit is None else unit
            network = self._build(origin)
            growth = growth_of(config, origin)
            begin_audit(config.audit_path, unit.step if unit else 0, config.fresh)
            self._dataset = self._open_stream(receiver, session, position, origin, growth)
            self._train(network, source, session, position, unit, growth)

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
        """Waits for the consumer for as long as it takes."""
        config = self._config
        began = time.monotonic()

        def give_up() -> bool:
            idle = time.monotonic() - began
            if config.idle_seconds and idle >= config.idle_seconds:
                self._flag.set(f"no consumer for {config.idle_seconds:g} s")
            return self._flag.is_set()

        return self._attach(give_up)

    def _attach_again(self) -> Optional[WindowReceiver]:
        """Waits for the consumer's return for ``reconnect_seconds``.

        When it is the engine that went away, the consumer may have to thaw first.
        """
        patience = self._config.reconnect_seconds + (FREEZE_SECONDS if engine_is_lost() else 0.0)
        give_up_at = time.monotonic() + patience

        def give_up() -> bool:
            return self._flag.is_set() or time.monotonic() >= give_up_at

        receiver = self._attach(give_up)
        if receiver is None and not self._flag.is_set():
            raise DatasetError(f"no consumer came back within {patience:g} s")
        return receiver

    def _attach(self, give_up: Callable[[], bool]) -> Optional[WindowReceiver]:
        config = self._config
        receiver = attach(
            *(config.address, config.namespace, config.dataset_name, 0),
            give_up,
            PacedLog(logger.info),
        )
        if receiver is not None and receiver.num_shards != 1:
            raise TrainError(
                f"the consumer was started with --num_shards={receiver.num_shards}, "
                "this trainer is the only rank: both must be equal"
            )
        return receiver

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

    def _build(self, unit: Optional[Unit]) -> TrainStepWrap:
        ms.set_seed(self._config.seed)
        network = build_network(self._config)
        network.set_train()
        if unit is not None:
            self._store.restore(unit, network)
        return network

    def _open_stream(
        self,
        receiver: WindowReceiver,
        session: TrainerSession,
        position: Position,
        unit: Optional[Unit],
        growth: Optional[Growth],
    ) -> StreamingDataset:
        receivers = [receiver]

        def attach_next() -> Optional[WindowReceiver]:
            return receivers.pop() if receivers else self._attach_again()

        return StreamingDataset(
            attach_next,
            position,
            session.number,
            self._config.batch_size,
            self._flag,
            self._config.idle_seconds,
            unit.dictionaries if unit else None,
            self._config.dense_transform,
            growth,
            session.read_again,
        )

    def _train(
        self,
        network: TrainStepWrap,
        source: RowSource,
        session: TrainerSession,
        position: Position,
        unit: Optional[Unit],
        growth: Optional[Growth],
    ) -> None:
        config, stream = self._config, self._dataset
        assert stream is not None
        progress = TrainingProgress(unit.step if unit else 0, position)
        ledger = LedgerCallBack(progress, stream, config.audit_path)
        timer = StepTimer()
        metrics = self._metrics_callback(progress, timer, source, session, unit)
        checkpoint = StreamCheckpoint(
            store=self._store,
            network=network,
            progress=progress,
            every_steps=config.save_checkpoint_steps,
            topic=config.topic,
            model=model_shape(config),
            on_saving=ledger.sync,
            on_saved=lambda unit: self._on_saved(session, unit),
            extra=metrics.state,
            vocabulary=growth.dump if growth is not None else bytes,
        )
        grow = [] if growth is None else [_growth_callback(progress, growth, network)]
        callbacks = [
            ms.TimeMonitor(1),
            ledger,
            *grow,
            LossCallBack(progress, config.loss_file_name),
            metrics,
            checkpoint,
            timer,
            StopCallBack(progress, self._flag, config.max_steps),
        ]
        began = time.monotonic()
        try:
            self._online_train(network, stream, callbacks)
        finally:
            if progress.steps_done:
                report(progress, stream, time.monotonic() - began)
        checkpoint.save_now()

    def _metrics_callback(
        self,
        progress: TrainingProgress,
        timer: StepTimer,
        source: RowSource,
        session: TrainerSession,
        unit: Optional[Unit],
    ) -> MetricsCallBack:
        config = self._config
        return MetricsCallBack(
            progress=progress,
            metrics=restored_metrics(unit, config.metrics_window_rows),
            timer=timer,
            lag=LagProbe(source.try_ends),
            report_steps=config.report_steps,
            output=JsonLines(config.metrics_path),
            session=session.number,
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
            RecModel(network).online_train(dataset, callbacks=callbacks, dataset_sink_mode=True)
        except TrainingStopped as stopped:
            self._flag.set(str(stopped))
        except NonFiniteLoss:
            self._flag.set("the loss is not finite")
            raise
        except RuntimeError:
            # An iterator that ends is an error to MindSpore; to us it is the stop we asked for.
            if stream.failure is not None:
                self._flag.set("the stream failed")
                raise stream.failure from None
            if not self._flag.is_set():
                self._flag.set("training failed")
                raise
        logger.info("stopping: %s", self._flag.reason)

    def close(self) -> None:
        """Leaves the channel and the engine; the flag must be set."""
        self._flag.set("closing")
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
