"""The consumer as a service: a channel that reopens, dead letters, metrics, an exit code."""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Callable

from prometheus_client import CollectorRegistry, ProcessCollector

from src.channel.attaching import PacedLog, open_channel
from src.channel.closing_rule import ClosingRule
from src.channel.engine import ChannelError, finalize
from src.channel.sender import WindowSender
from src.cluster.broker import SourceError
from src.consumer.bad_row_keeper import BadRowKeeper
from src.consumer.consume import consume
from src.consumer.counts import ConsumerCounts
from src.consumer.session_follower import OtherRanks, starting_commit
from src.consumer.window_assembler import WindowAssembler
from src.dead_letters.dead_letters import DeadLetterWriter, WritingStopped
from src.process.memory import collected_rarely
from src.process.stop import StopFlag
from src.rows.bad_rows import BadRowGuard, BrokenFeedError
from src.stream.row_source import RowSource
from src.watching.prometheus import ConsumerNumbers, MetricsServerError, serving

logger = logging.getLogger(__name__)

EXPECTED_ERRORS = (
    BrokenFeedError,
    ChannelError,
    MetricsServerError,
    OtherRanks,
    SourceError,
    ValueError,  # DictionaryError, ProfileError, a name that the engine would misread
)


def exit_code_of(consume_topic: Callable[[ConsumerCounts], None]) -> int:
    """Runs a consumer, logs its errors and leaves the engine.

    Args:
        consume_topic: The consumer; it increases the counts.

    Returns:
        0 after a stop that was asked for, 1 after an error.
    """
    counts = ConsumerCounts()
    try:
        consume_topic(counts)
    except WritingStopped as stop:
        logger.info("%s; they are read again", stop)
    except EXPECTED_ERRORS as error:
        logger.error("%s", error)
        return 1
    finally:
        logger.info("%s", counts)
        finalize()
    return 0


@contextlib.contextmanager
def keeping_bad_rows(
    arguments: argparse.Namespace, flag: StopFlag, counts: ConsumerCounts
) -> Iterator[BadRowKeeper]:
    """Keeps bad rows in the dead-letter topic while the block runs."""
    writer = DeadLetterWriter(
        arguments.cluster,
        arguments.topic,
        arguments.reconnect_seconds,
        flag.is_set,
    )
    with contextlib.closing(writer):
        writer.check_rights()
        guard = BadRowGuard(arguments.max_bad_fraction)
        yield BadRowKeeper(writer.write, guard, counts)


class ReopeningChannel:
    """The consumer's channel, which is opened anew after it is lost with its engine.

    Args:
        make_sender: Makes the sending end.
        address: The engine's address, for the error's text.
        reconnect_seconds: How long to wait for the engine.
        flag: The stop flag.
    """

    def __init__(
        self,
        make_sender: Callable[[], WindowSender],
        address: str,
        reconnect_seconds: float,
        flag: StopFlag,
    ) -> None:
        self._make_sender = make_sender
        self._address = address
        self._reconnect_seconds = reconnect_seconds
        self._flag = flag
        self._sender: WindowSender | None = None

    def open(self) -> WindowSender | None:
        """Waits for the engine and opens the channel; None when the flag is set meanwhile.

        Raises:
            ChannelError: The engine stayed away, or another consumer has the channel.
        """
        give_up_at = time.monotonic() + self._reconnect_seconds
        self._sender = open_channel(
            self._make_sender,
            lambda: self._flag.is_set() or time.monotonic() >= give_up_at,
            PacedLog(logger.warning),
        )
        if self._sender is None and not self._flag.is_set():
            raise ChannelError(f"no engine at {self._address} within {self._reconnect_seconds:g} s")
        return self._sender

    def depth(self) -> list[int] | None:
        """Windows waiting by shard; None if that is unknown. The next window finds the cause."""
        try:
            return self._sender.depth() if self._sender is not None else None
        except ChannelError as error:
            logger.debug("the channel's depth is not known: %s", error)
            return None


def send_windows(
    arguments: argparse.Namespace,
    source: RowSource,
    assembler: WindowAssembler,
    rule: ClosingRule,
    make_sender: Callable[[], WindowSender],
    flag: StopFlag,
    counts: ConsumerCounts,
) -> None:
    """Sends windows and serves metrics until the flag is set; opens a lost channel anew.

    Args:
        arguments: The flags of ``consumer.py``.
        source: Holds the topic's rows.
        assembler: Makes windows of the source's rows.
        rule: Decides when a window closes.
        make_sender: Makes the sending end of the channel.
        flag: The stop flag.
        counts: Its windows and rows are increased.

    Raises:
        SourceError: The broker was unreachable for too long.
        ChannelError: The engine stayed away for too long, or another consumer has the channel.
        BrokenFeedError: Too many of the last rows are bad.
        OtherRanks: The trainer's number of ranks differs from the number of shards.
        MetricsServerError: The port can't be served.
        WritingStopped: The flag was set while bad rows were being written.
    """
    channel = ReopeningChannel(make_sender, arguments.address, arguments.reconnect_seconds, flag)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    numbers = ConsumerNumbers(registry, counts, source.lag, channel.depth)
    on_round = numbers.update if arguments.metrics_port else lambda: None
    with collected_rarely(), serving(registry, arguments.metrics_port, arguments.metrics_host):
        first = starting_commit(source, arguments.start)
        while not flag.is_set():
            sender = channel.open()
            if sender is None:
                return
            try:
                consume(source, sender, assembler, rule, first, flag, counts, on_round)
            except ChannelError as error:
                # The windows in its queues are lost. They are sent again, and the trainer skips
                # those that it has already received.
                logger.warning(
                    "the channel is gone (%s): sending again what is not committed", error
                )
                first = source.last_commit() or first
            finally:
                sender.close()
