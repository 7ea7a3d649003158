"""Puts the consumer's parts together, runs it and takes it apart again."""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from pathlib import Path
from typing import Callable, Optional

from prometheus_client import CollectorRegistry, ProcessCollector

from src.channel.channel import ChannelError, PacedLog, WindowSender, finalize, open_channel
from src.channel.window import ClosingRule
from src.consumer.consume import (
    BadRowKeeper,
    ConsumerCounts,
    OtherRanks,
    WindowAssembler,
    consume,
    describe,
    starting_commit,
)
from src.dictionaries.dictionaries import Dictionaries, DictionaryError, load_dictionaries
from src.dictionaries.oov import count_oov
from src.features.drift import DriftGuard, Profile
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.process.garbage import collected_rarely
from src.process.stop import StopFlag
from src.stream.bad_rows import BadRowGuard, BrokenFeedError
from src.stream.dead_letters import DeadLetterWriter, WritingStopped
from src.stream.kafka_source import RowSource, SourceError
from src.watching.prometheus import ConsumerNumbers, MetricsServerError, serving

logger = logging.getLogger(__name__)

EXPECTED_ERRORS = (
    BrokenFeedError,
    ChannelError,
    DictionaryError,
    MetricsServerError,
    OtherRanks,
    SourceError,
    ValueError,
)


def run_consumer(arguments: argparse.Namespace, flag: StopFlag) -> int:
    """Runs until the flag is set.

    Args:
        arguments: The flags of ``consumer.py``.
        flag: The stop flag.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 after an error, which is logged.
    """
    counts = ConsumerCounts()
    try:
        dictionaries = load_dictionaries(arguments.max_dict, arguments.min_dict, arguments.map_dict)
        with (
            collected_rarely(),
            RowSource(
                arguments.bootstrap_servers,
                arguments.topic,
                arguments.group_id,
                arguments.reconnect_seconds,
                flag.is_set,
                arguments.allow_loss,
            ) as source,
            contextlib.closing(
                DeadLetterWriter(
                    arguments.bootstrap_servers,
                    arguments.topic,
                    arguments.reconnect_seconds,
                    flag.is_set,
                )
            ) as letters,
        ):
            ConsumerService(arguments, dictionaries, source, letters, flag, counts).run()
    except WritingStopped as stop:
        logger.info("%s; they are read again", stop)
    except EXPECTED_ERRORS as error:
        logger.error("%s", error)
        return 1
    finally:
        logger.info("%s", describe(counts))
        finalize()
    return 0


class ConsumerService:
    """Reads and sends; a channel that is lost with its engine is made anew."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        dictionaries: Dictionaries,
        source: RowSource,
        letters: DeadLetterWriter,
        flag: StopFlag,
        counts: ConsumerCounts,
    ) -> None:
        self._arguments = arguments
        self._source = source
        self._flag = flag
        self._counts = counts
        self._sender: Optional[WindowSender] = None
        features = FeatureBuilder(dictionaries, arguments.dense_transform, arguments.vocab_size)
        self._assembler = WindowAssembler(
            source,
            features,
            features.fingerprint,
            arguments.num_shards,
            arguments.value_format,
            arguments.topic,
            BadRowKeeper(letters.write, BadRowGuard(arguments.max_bad_fraction), counts),
            sends_unknown=arguments.admit_count > 0,
            watch=_drift_watch(arguments.profile, dictionaries),
        )

    def run(self) -> None:
        """Runs until the flag is set.

        Raises:
            SourceError, ChannelError, BrokenFeedError, MetricsServerError: The message is one
                line.
            WritingStopped: The flag was set while bad rows were being written.
        """
        arguments = self._arguments
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        numbers = ConsumerNumbers(registry, self._counts, self._source.lag, self._depth)
        look = numbers.look if arguments.metrics_port else lambda: None
        with serving(registry, arguments.metrics_port, arguments.metrics_host):
            self._serve(look)

    def _serve(self, look: Callable[[], None]) -> None:
        """Sends until the flag is set, over as many channels as that takes."""
        arguments = self._arguments
        first = starting_commit(self._source, arguments.start)
        while not self._flag.is_set():
            self._sender = sender = self._open_channel()
            if sender is None:
                return
            rule = ClosingRule(
                *(arguments.window_size, arguments.num_shards, arguments.window_seconds),
                arguments.max_window_size,
            )
            try:
                consume(
                    *(self._source, sender, self._assembler, rule, first),
                    *(self._flag, self._counts, look),
                )
            except ChannelError as error:
                # What the queues held is gone: the trainer skips what it got, and misses nothing.
                logger.warning(
                    "the channel is gone (%s): sending again what is not committed", error
                )
                first = self._source.committed() or first
            finally:
                sender.close()

    def _open_channel(self) -> Optional[WindowSender]:
        """Waits for the engine for reconnect_seconds; None when told to stop meanwhile.

        Raises:
            ChannelError: The engine stayed away, or another consumer has the channel.
        """
        arguments = self._arguments
        give_up_at = time.monotonic() + arguments.reconnect_seconds
        sender = open_channel(
            arguments.address,
            arguments.namespace,
            arguments.dataset_name,
            arguments.num_shards,
            arguments.max_queue_size,
            lambda: self._flag.is_set() or time.monotonic() >= give_up_at,
            PacedLog(logger.warning),
        )
        if sender is None and not self._flag.is_set():
            raise ChannelError(
                f"no engine at {arguments.address} within {arguments.reconnect_seconds:g} s"
            )
        return sender

    def _depth(self) -> Optional[list[int]]:
        """Windows waiting by shard; a channel that does not say is noticed at the next window."""
        try:
            return self._sender.depth() if self._sender is not None else None
        except ChannelError as error:
            logger.debug("the channel's depth is not known: %s", error)
            return None


def _drift_watch(profile: str, dictionaries: Dictionaries) -> Callable[[Array, Array, Array], None]:
    """What logs a warning when the stream leaves what the profile lets expect."""
    if not Path(profile).exists():
        logger.info("no profile %s: how far the stream drifts is not watched", profile)
        return lambda labels, dense, oov: None
    guard = DriftGuard(Profile.load(profile), dictionaries)

    def watch(labels: Array, dense: Array, oov: Array) -> None:
        changed = guard.observe(labels, dense, count_oov(oov))
        for within, log, text in (
            (False, logger.warning, "the stream is not what the dictionaries were made from: %s"),
            (True, logger.info, "as expected again: %s"),
        ):
            some = [str(deviation) for deviation in changed if deviation.within == within]
            if some:
                log(text, "; ".join(some))

    return watch
