"""Publishes versions of the model while it is trained, for those who serve it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
from prometheus_client import CollectorRegistry

from src.config import Config
from src.dictionaries.dictionaries import load_dictionaries
from src.dictionaries.growing.growth import Growth
from src.dictionaries.growing.vocabulary import Change
from src.features.dense_coding import DenseCoding
from src.model.networks import PredictNet
from src.process.arrays import Array
from src.publishing.changes import (
    CROSSES,
    TABLES_OF_IDS,
    ChangeCollector,
    ComparedTable,
    NotedRows,
)
from src.publishing.folder import VersionFolder
from src.publishing.numbers import PublishingNumbers
from src.publishing.publisher import Moment, Publisher, PublishingSettings
from src.publishing.version_format import DictionaryTables, PublishingError
from src.trainer.callbacks import TrainingProgress

logger = logging.getLogger(__name__)

SPARSE_SECONDS, DENSE_SECONDS = 1.0, 60.0
LOOK_SECONDS = 0.05
_NOT_PUBLISHED = ("cross_accumulator",)
"""The optimizer's state among the parameters of a network that predicts."""
_MODEL_KEYS = (
    "field_size",
    "vocab_size",
    "emb_dim",
    "deep_layer_act",
    "deep_pairs",
    "cross_bits",
    "cross_fields",
    "dense_transform",
    "admit_count",
)


class Publishing:
    """Publishes the versions of one training run.

    Args:
        config: The configuration; ``publish_path`` names the folder, which is opened.

    Raises:
        PublishingError: The folder can't be used.
        DictionaryError: The dictionaries can't be read, or don't fit the vocabulary.
    """

    _collector: ChangeCollector
    _publisher: Publisher | None = None

    def __init__(self, config: Config) -> None:
        self._config = config
        dictionaries = load_dictionaries(
            config.max_dict, config.min_dict, config.map_dict, config.vocab_size
        )
        coding = DenseCoding(config.dense_transform, dictionaries, config.vocab_size)
        self._fingerprint = coding.fingerprint
        self._tables = DictionaryTables.of(dictionaries)
        self._settings = publishing_settings(config)
        self.seconds = self._settings.seconds
        self._folder = VersionFolder(Path(config.publish_path))
        self._folder.open()

    def start(
        self,
        network: PredictNet,
        growth: Growth | None,
        knows_all_ids: bool,
        registry: CollectorRegistry,
    ) -> None:
        """Gets to know what is published; call it once, before the first step.

        Args:
            network: Predicts with the weights that are trained.
            growth: The growing vocabulary; None where it is fixed.
            knows_all_ids: Whether ``note`` is told of every id. Otherwise the tables are compared
                with copies, which takes their memory once more.
            registry: Of the numbers for Prometheus.
        """
        parameters = {
            parameter.name: parameter
            for parameter in network.get_parameters()
            if parameter.name not in _NOT_PUBLISHED
        }

        def weights() -> Mapping[str, Array]:
            # On the CPU these are views of MindSpore's own memory.
            return {name: parameter.asnumpy() for name, parameter in parameters.items()}

        noted, compared = None, []
        if self._config.sparse:
            compared = [CROSSES] if CROSSES in parameters else []
            if knows_all_ids:
                noted = NotedRows(self._config.vocab_size)
            else:
                compared += TABLES_OF_IDS
        self._collector = ChangeCollector(
            weights, noted, {name: ComparedTable() for name in compared}, growth, self._tables
        )
        self._publisher = Publisher(
            self._folder, self._settings, self._collector, PublishingNumbers(registry)
        )

    @property
    def is_writing(self) -> bool:
        """Whether a version is still being written."""
        return self._publisher is not None and self._publisher.is_writing

    def note(self, ids: Array, change: Change | None) -> None:
        """Notes what a step has touched, see ``ChangeCollector.note``."""
        self._collector.note(ids, change)

    def publish(self, moment: Moment) -> None:
        """Copies what the next version holds and has it written.

        Raises:
            PublishingError: The dictionaries are not those that made the ids.
        """
        if moment.dictionaries != self._fingerprint:
            raise PublishingError(
                f"the dictionaries with {self._config.map_dict} have fingerprint "
                f"{self._fingerprint:016x}, those of the stream {moment.dictionaries:016x}: with "
                "--publish_path the trainer needs the consumer's --max_dict, --min_dict, --map_dict"
            )
        assert self._publisher is not None, "it was started"
        self._publisher.publish(moment)

    def wait(self) -> None:
        """Waits until the version under way is published or not."""
        if self._publisher is not None:
            self._publisher.wait()

    def close(self) -> None:
        """Waits for the version under way, and lets another trainer publish to the folder."""
        if self._publisher is not None:
            self._publisher.close()
        self._folder.close()


def publishing_settings(config: Config) -> PublishingSettings:
    """How versions are published by a configuration."""
    seconds = config.publish_seconds or (SPARSE_SECONDS if config.sparse else DENSE_SECONDS)
    model: dict[str, Any] = {key: getattr(config, key) for key in _MODEL_KEYS}
    model["deep_layer_dim"] = list(config.deep_layer_dim)
    if not config.sparse:
        logger.info(
            "publishing a full version every %g s: without sparse every row of the embedding table "
            "moves in each step, so there are no deltas",
            seconds,
        )
    return PublishingSettings(
        seconds,
        config.publish_full_every if config.sparse else 1,
        config.publish_keep,
        config.publish_tolerance,
        config.topic,
        model,
    )


class PublishCallBack(ms.Callback):  # type: ignore[misc]
    """Publishes a version every so many seconds, and the last one when training has ended.

    It comes after the ledger and the metrics. When rows stop coming, no step ends any more. So a
    thread publishes what the last steps have learnt as soon as it is due. A lock keeps it out of
    the steps, in which weights change.

    Args:
        progress: Holds step, position and the batch.
        publishing: Copies and writes; None publishes nothing.
        newest: Returns (logit, is_click) of the newest rows.
        clock: A monotonic clock, seconds.
    """

    def __init__(
        self,
        progress: TrainingProgress,
        publishing: Publishing | None,
        newest: Callable[[], tuple[Array, Array]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._progress = progress
        self._publishing = publishing
        self._newest = newest
        self._clock = clock
        self._due = clock()
        self._step = progress.step
        self._trained_until_ms = 0
        self._outside_steps = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: PublishingError | None = None

    def __exit__(self, *error: object) -> None:
        """Ends the thread; MindSpore calls this however training ends."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def on_train_step_begin(self, run_context: Any) -> None:
        """Keeps the thread out until the step has ended.

        Raises:
            PublishingError: The thread has met it.
        """
        if self._publishing is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="publish-when-due", daemon=True)
            self._thread.start()
        self._outside_steps.acquire()
        if self._failure is not None:
            raise self._failure

    def on_train_step_end(self, run_context: Any) -> None:
        """Notes what has moved, and publishes when it is time.

        Raises:
            PublishingError: The trainer's dictionaries are not those of the stream.
        """
        publishing, batch = self._publishing, self._progress.batch
        if publishing is None:
            return
        assert batch is not None, "the ledger comes first"
        publishing.note(batch.ids, batch.change)
        # A message from the future, as a wrong clock sends it, would make all versions look fresh.
        newest = min(batch.newest_timestamp, round(time.time() * 1000))
        self._trained_until_ms = max(self._trained_until_ms, newest)
        self._publish_if_due(publishing)
        self._outside_steps.release()

    def publish_now(self) -> None:
        """Publishes the state after the last step, and waits until that is done.

        Raises:
            PublishingError: The trainer's dictionaries are not those of the stream.
        """
        if self._publishing is None:
            return
        if self._progress.step != self._step:
            self._publish(self._publishing)
        self._publishing.wait()

    def _run(self) -> None:
        """Publishes between two steps that are far apart, until training has ended."""
        assert self._publishing is not None, "else there is no thread"
        while not self._ended.wait(LOOK_SECONDS):
            if not self._outside_steps.acquire(timeout=LOOK_SECONDS):
                continue
            try:
                if self._progress.step != self._step:
                    self._publish_if_due(self._publishing)
            except PublishingError as error:
                self._failure = error
                return
            finally:
                self._outside_steps.release()

    def _publish_if_due(self, publishing: Publishing) -> None:
        now = self._clock()
        if now >= self._due and not publishing.is_writing:
            self._due = now + publishing.seconds
            self._publish(publishing)

    def _publish(self, publishing: Publishing) -> None:
        progress = self._progress
        self._step = progress.step
        publishing.publish(
            Moment(
                progress.step,
                progress.position,
                self._trained_until_ms,
                progress.dictionaries,
                self._newest(),
            )
        )
