"""What a training run holds from its start to its stop: checkpoint, broker, session and stream.

``online_train.py`` is the run itself; it calls the methods of ``Trainer`` in their order here.

Guarantee: weights, optimizer state and position are saved as one unit, and the position is
committed to the Kafka group only after its checkpoint is durable. A restart continues from the
newest valid checkpoint and commits it under a new session, which makes the consumer rewind to it.
No row is lost and none is trained twice.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mindspore as ms
from prometheus_client import CollectorRegistry, ProcessCollector

from src.channel.engine import finalize
from src.checkpoints.copies import KeptCopies
from src.checkpoints.parts import read_vocabulary
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import Unit, read_unit
from src.checkpoints.unit_writer import Moment, UnitWriter
from src.cluster.topic_identity import OtherTopic
from src.config import Config
from src.dictionaries.growing.growth import Growth
from src.dictionaries.growing.vocabulary import GrowthSettings
from src.model.crosses import CrossLearner
from src.model.model_config import ModelConfig, model_shape
from src.model.networks import PredictNet, TrainNet, make_train_step
from src.model.row_reset import RowReset
from src.model.wide_and_deep import NetWithLossClass
from src.process.stop import IdleLimit, StopFlag
from src.stream.topic_group import TopicGroup
from src.trainer.admission import StreamStart
from src.trainer.audit_trail import begin_audit
from src.trainer.callbacks import (
    LedgerCallBack,
    NonFiniteLoss,
    StopCallBack,
    TrainingProgress,
    TrainingStopped,
    WorkersCallBack,
)
from src.trainer.consumer_link import ConsumerLink
from src.trainer.dataset import StreamingDataset
from src.trainer.publish_callback import PublishCallBack, Publishing
from src.trainer.reporting import LagProbe, MetricsCallBack, StepTimer, restored_metrics
from src.trainer.session import TOPIC_ID, GroupWatch, TrainerSession, starting_position
from src.watching.json_lines import JsonLines
from src.watching.prometheus import TrainerNumbers, serving

logger = logging.getLogger(__name__)


def growth_of(config: Config, unit: Unit | None) -> Growth | None:
    """The growing vocabulary that belongs to a checkpoint's weights, or to new ones.

    Returns:
        None where the configuration has none grow.

    Raises:
        CheckpointError, VocabularyError: The checkpoint's can't be read.
    """
    if not config.admit_count:
        return None
    saved = read_vocabulary(unit) if unit is not None else None
    settings = GrowthSettings(config.admit_count, config.expire_rows)
    return Growth(settings, config.vocab_size, saved)


def initial_unit(config: Config, store: CheckpointStore) -> Unit | None:
    """The checkpoint with which a model starts instead of random weights.

    Raises:
        CheckpointError: It can't be read or does not fit.
    """
    if not config.init_ckpt:
        return None
    unit = read_unit(Path(config.init_ckpt))
    store.check(unit, unit.topic, unit.dictionaries, model_shape(config))
    logger.info("starting with the weights of %s", unit.path)
    return unit


class Trainer:
    """One training run, on one device.

    Args:
        config: The configuration.
        flag: Stops it.

    Attributes:
        stream_flag: Ends the stream of batches.
        idle: Stops the run when the stream is idle for too long.
        link: The connection to the consumer.
        workers: The callback that gives MindSpore's workers CPUs of their own.
        timer: Times the steps.
        progress: How far training has come; there after ``begin_session``.
        writer: Writes checkpoints; there after ``restore``.
    """

    progress: TrainingProgress
    writer: UnitWriter
    _session: TrainerSession
    _source: TopicGroup
    _network: TrainNet
    _ledger: LedgerCallBack
    _metrics: MetricsCallBack

    def __init__(self, config: Config, flag: StopFlag) -> None:
        self.flag = self.stream_flag = flag
        self.link = ConsumerLink(config, flag, flag)
        self.idle = IdleLimit(flag, config.idle_seconds, self.link.are_rows_held_back)
        self.workers: ms.Callback = WorkersCallBack()
        self.timer = StepTimer()
        self._config = config
        self._store = CheckpointStore(
            Path(config.ckpt_path), config.ckpt_prefix, config.keep_checkpoint_max
        )
        self._unit: Unit | None = None
        self._origin: Unit | None = None
        self._watch: GroupWatch | None = None
        self._growth: Growth | None = None
        self._stream: StreamingDataset | None = None
        self._publishing: Publishing | None = None
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._numbers = TrainerNumbers(self._registry)
        self._closing = contextlib.ExitStack()

    # --- starting

    def open_checkpoints(self) -> None:
        """Locks the folders of checkpoints and versions and finds the newest checkpoint.

        The broker is asked first whether it lets this trainer in. From here metrics are served.

        Raises:
            SourceError, MetricsServerError, CheckpointError, PublishingError: One line says why.
            StoppedWaiting: A stop came before the folder was free.
        """
        config = self._config
        self.link.check_access()
        served = serving(self._registry, config.metrics_port, config.metrics_host)
        self._closing.enter_context(served)
        self._store.lock(self.flag.is_set)
        if config.fresh:
            self._store.set_aside()
        self._unit = unit = self._store.newest()
        if unit is not None:
            self._store.check(unit, config.topic, unit.dictionaries, model_shape(config))
        if config.publish_path:
            self._publishing = Publishing(config)
            self._closing.callback(self._publishing.close)

    def begin_session(self) -> StreamStart:
        """Begins a session with the consumer, which then sends the rows after the checkpoint.

        Raises:
            TrainError, CheckpointError, SourceError, OutputError, VocabularyError: One line says
                what went wrong.
        """
        config, unit = self._config, self._unit
        self._source = self._closing.enter_context(self.link.open_source())
        position = starting_position(self._source, unit, config)
        self._session = self.link.begin_session(self._source, position)
        self._closing.callback(self._session.close)
        watch = GroupWatch(
            self.link.open_source, self._session, self.flag.set, self._source.topic_id
        )
        self._watch = self._closing.enter_context(watch)
        self._origin = origin = initial_unit(config, self._store) if unit is None else unit
        begin_audit(config.audit_path, unit.step if unit else 0, config.fresh)
        self._growth = growth_of(config, origin)
        self.progress = TrainingProgress(unit.step if unit else 0, position)
        dictionaries = origin.dictionaries if origin else None
        return StreamStart.of(config, position, self._session.number, dictionaries, self._growth)

    def make_step(
        self, network: NetWithLossClass, config: ModelConfig, crosses: CrossLearner | None
    ) -> TrainNet:
        """The training step, for ``GetWideDeepNet``."""
        return make_train_step(network, config, crosses)

    def restore(self, network: TrainNet) -> None:
        """Gives the network the weights and the optimizer state that training starts with.

        Raises:
            CheckpointError: The checkpoint can't be read or does not fit.
        """
        network.set_train()
        if self._origin is not None:
            self._store.restore(self._origin, network)
        self._network = network
        self.writer = self.make_writer(network)
        self._closing.callback(self.writer.close)

    def make_writer(self, network: TrainNet) -> UnitWriter:
        """What writes checkpoints, for ``StreamCheckpoint``."""
        return UnitWriter(network, self._store, self._moment, self._commit, KeptCopies())

    def step_callbacks(self, stream: StreamingDataset) -> tuple[LedgerCallBack, ms.Callback]:
        """The first and the last callback: one moves the progress, the other ends training."""
        self._stream = stream
        follow = None
        if self._growth is not None:
            follow = partial(self._growth.follow, reset=RowReset(self._network.row_state()))
        self._ledger = LedgerCallBack(self.progress, stream, self._config.audit_path, follow)
        return self._ledger, StopCallBack(self.progress, self.flag, self._config.max_steps)

    def metrics_callback(self) -> ms.Callback:
        """The callback that reports how well rows are scored before they are trained on."""
        self._metrics = MetricsCallBack(
            progress=self.progress,
            metrics=restored_metrics(self._unit, self._config.metrics_window_rows),
            timer=self.timer,
            lag=LagProbe(self._source.try_ends, self._session.covering),
            report_steps=self._config.report_steps,
            output=JsonLines(self._config.metrics_path),
            session=self._session.number,
            numbers=self._numbers,
        )
        return self._metrics

    def publish_callback(self, network: PredictNet, knows_all_ids: bool = True) -> PublishCallBack:
        """The callback that publishes versions for those who serve, if that is wanted.

        Args:
            network: Predicts with the weights that are trained.
            knows_all_ids: Whether this process has the ids of all rows of a step.
        """
        if self._publishing is not None:
            self._publishing.start(network, self._growth, knows_all_ids, self._registry)
        return PublishCallBack(self.progress, self._publishing, lambda: self._metrics.newest())

    # --- training

    def rows_to_train(self, number: int, rows: int) -> int:
        """How many of the rows held make the number-th batch when its time is over: all."""
        return rows

    def read_again(self) -> int:
        """Has the rows after the last checkpoint sent again; returns the session they come in."""
        return self._session.read_again()

    @contextlib.contextmanager
    def until_stopped(self, stream: StreamingDataset) -> Iterator[None]:
        """Ends quietly when training was stopped, in whatever way MindSpore reports it.

        Raises:
            ChannelError, SourceError, DatasetError, GapError, NonFiniteLoss, CheckpointError: What
                has ended training otherwise; one line says what went wrong.
        """
        began = time.monotonic()
        try:
            try:
                yield
            except (TrainingStopped, RuntimeError) as error:
                cause = self._cause(error, stream)
                if cause is error:
                    raise
                if cause is not None:
                    raise cause from None
            finally:
                # With the exception MindSpore's pipeline goes, and waits for a pending batch.
                self.stream_flag.set("training has ended")
            logger.info("stopping: %s", self.flag.reason)
        finally:
            self.writer.finish()
            if self.progress.steps_done:
                self._report(stream, time.monotonic() - began)

    @property
    def failure(self) -> OtherTopic | None:
        """What has ended training after a last checkpoint; None where that was asked for."""
        return self._watch.failure if self._watch is not None else None

    def close(self) -> None:
        """Leaves the broker, the channel and the engine."""
        self.flag.set("closing")
        self.stream_flag.set("closing")
        self._closing.close()
        self._store.unlock()
        if self._stream is not None:
            self._stream.close()
        finalize()

    # --- parts of the above

    def _moment(self) -> Moment:
        """The state between two steps, apart from the parameters."""
        topic, scores = {TOPIC_ID: self._source.topic_id}, self._metrics.state()
        return Moment(
            self.progress.step,
            self._session.covering(self.progress.position),
            self._config.topic,
            self.progress.dictionaries,
            model_shape(self._config),
            self._ledger.sync,
            lambda: {**scores(), **topic},
            self._growth.copied() if self._growth is not None else bytes,
        )

    def _commit(self, unit: Unit, is_beside: bool) -> None:
        """Commits the position of a durable unit, in the thread of the checkpoints or not."""
        self._numbers.on_saved(unit.position.reached)
        if self.failure is None:  # else its offsets mean nothing in the topic that is there now
            self._session.commit(unit.position, is_beside)

    def _cause(self, error: Exception, stream: StreamingDataset) -> Exception | None:
        """The cause of an error of MindSpore's; None where it is the stop that was asked for."""
        if isinstance(error, TrainingStopped):
            self.flag.set(str(error))
            return None
        if isinstance(error, NonFiniteLoss):
            self.flag.set("the loss is not finite")
            return error
        # An iterator that ends is an error to MindSpore; to us it is the stop that was asked for.
        if stream.failure is not None:
            self.flag.set("the stream failed")
            return stream.failure
        return self._unexpected(error)

    def _unexpected(self, error: Exception) -> Exception | None:
        """The error where no stop was asked for."""
        if self.flag.is_set():
            return None
        self.flag.set("training failed")
        return error

    def _report(self, stream: StreamingDataset, seconds: float) -> None:
        """Logs what was trained."""
        log_trained(self.progress, stream, seconds)


def log_trained(progress: TrainingProgress, stream: StreamingDataset, seconds: float) -> None:
    """Logs the steps and rows of a run."""
    logger.info(
        "trained %d steps, %d rows in %.1f s (%.0f rows/s), skipped %d rows, dropped %d stale rows",
        progress.steps_done,
        progress.rows_done,
        seconds,
        progress.rows_done / seconds,
        stream.skipped_rows,
        stream.stale_rows,
    )
