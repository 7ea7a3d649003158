"""The trainer's connection to the consumer: over the channel, and over the group's commits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from src.channel.attaching import PacedLog, attach
from src.channel.engine import FREEZE_SECONDS, engine_is_lost
from src.channel.receiver import WindowReceiver
from src.cluster.access import AccessError, Needs, check_access
from src.cluster.broker import SourceError
from src.cluster.settings import client_settings
from src.config import Config
from src.process.stop import StopFlag
from src.stream.position import Position
from src.stream.topic_group import TopicGroup
from src.trainer.admission import DatasetError
from src.trainer.session import TrainerSession

logger = logging.getLogger(__name__)


class TrainError(RuntimeError):
    """Training can't start or continue; one line says why."""


class ConsumerLink:
    """Attaches to the channel of the consumer, and opens the group that it follows.

    Args:
        config: Names of the channel, topic and group, and how long to wait.
        flag: Stops the trainer.
        stream_flag: Ends the stream of batches.
        shard_id: The shard to read.
        num_shards: Into how many the consumer must cut the stream.
    """

    def __init__(
        self,
        config: Config,
        flag: StopFlag,
        stream_flag: StopFlag,
        shard_id: int = 0,
        num_shards: int = 1,
    ) -> None:
        self.num_shards = num_shards
        self._config = config
        self._flag = flag
        self._stream_flag = stream_flag
        self._shard_id = shard_id

    def check_access(self) -> None:
        """Asks the broker once whether it lets this trainer in; one that is away is not waited for.

        The consumer is waited for without end, and what is wrong here is wrong there as well.

        Raises:
            SourceError: The broker refuses this client, or a right is missing.
        """
        config = self._config
        settings = client_settings(config.bootstrap_servers, config.kafka_config)
        needs = Needs(reads=(config.topic,), group=config.group_id)
        try:
            check_access(settings, needs, 0.0, self._flag.is_set)
        except AccessError as error:
            if error.is_final:
                raise SourceError(str(error)) from None
            logger.warning("%s; going on, it may be there later", error)

    def wait(self) -> WindowReceiver | None:
        """Waits for the consumer for as long as it takes.

        Returns:
            The receiving end of the channel, a ``DataReceiver``; None where a stop came first.

        Raises:
            TrainError: The consumer cuts the stream into another number of shards.
        """
        began = time.monotonic()
        return self.attach(lambda: self.waited_in_vain(began), PacedLog(logger.info))

    def waited_in_vain(self, began: float) -> bool:
        """Whether to stop waiting; that there was no consumer for too long asks for a stop."""
        idle_seconds = self._config.idle_seconds
        if idle_seconds and time.monotonic() - began >= idle_seconds:
            self._flag.set(f"no consumer for {idle_seconds:g} s")
        return self._flag.is_set()

    def attach_again(self) -> WindowReceiver | None:
        """Waits for the consumer's return for ``reconnect_seconds``; None where a stop came first.

        If the engine is gone, the consumer may be frozen with it for a while.

        Raises:
            DatasetError: It did not come back.
            TrainError: It came back with another number of shards.
        """
        patience = self._config.reconnect_seconds + (FREEZE_SECONDS if engine_is_lost() else 0.0)
        give_up_at = time.monotonic() + patience

        def give_up() -> bool:
            return self._stream_flag.is_set() or time.monotonic() >= give_up_at

        receiver = self.attach(give_up, PacedLog(logger.info))
        if receiver is None and not self._stream_flag.is_set():
            raise DatasetError(f"no consumer came back within {patience:g} s")
        return receiver

    def attach(self, give_up: Callable[[], bool], log: PacedLog) -> WindowReceiver | None:
        """Tries to attach until ``give_up`` says so; None then.

        Raises:
            TrainError: The consumer cuts the stream into another number of shards.
        """
        config = self._config
        receiver = attach(
            config.address, config.namespace, config.dataset_name, self._shard_id, give_up, log
        )
        if receiver is not None and receiver.num_shards != self.num_shards:
            if self._shard_id == 0:
                self._announce_shards()
            raise TrainError(
                f"the consumer was started with --num_shards={receiver.num_shards}, "
                f"{self._described()}: both must be equal"
            )
        return receiver

    def _described(self) -> str:
        """How many shards the trainer reads, in its user's words."""
        return "this trainer is alone and reads 1"

    def _announce_shards(self) -> None:
        """Lets a consumer with another number of shards know that it waits in vain."""
        with self.open_source() as source:
            committed = source.committed()
            if committed is not None:
                self.begin_session(source, committed.position)

    def open_source(self, at_once: bool = False) -> TopicGroup:
        """The broker, for one thread.

        Args:
            at_once: Whether not to wait for a broker that is away; then a stop is no reason to
                give up either.

        Raises:
            SourceError: No broker answers, or there is no such topic.
        """
        config = self._config
        return TopicGroup(
            client_settings(config.bootstrap_servers, config.kafka_config),
            config.topic,
            config.group_id,
            0.0 if at_once else config.reconnect_seconds,
            (lambda: False) if at_once else self._flag.is_set,
        )

    def are_rows_held_back(self) -> bool:
        """Whether an open transaction holds rows back; False where no broker answers."""
        try:
            with self.open_source() as source:
                return source.holds_rows_back()
        except SourceError as error:
            logger.debug("it is not known whether a transaction is open: %s", error)
            return False

    def begin_session(self, source: TopicGroup, position: Position) -> TrainerSession:
        """Begins a session at a position, which the consumer will go back to.

        Raises:
            SourceError: The broker stayed away.
        """
        return TrainerSession(source, self.open_source, position, self.num_shards)
