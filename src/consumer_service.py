"""Puts the consumer's parts together, runs it and takes it apart again."""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from typing import Optional

from src.bad_rows import BadRowGuard, BrokenFeedError
from src.channel import ChannelError, PacedLog, WindowSender, finalize, open_channel
from src.consume import (
    BadRowKeeper,
    ConsumerCounts,
    FeatureBuilder,
    WindowAssembler,
    consume,
    describe,
    starting_commit,
)
from src.dead_letters import DeadLetterWriter, WritingStopped
from src.dictionaries import Dictionaries, DictionaryError, load_dictionaries
from src.kafka_source import RowSource, SourceError
from src.stop import StopFlag
from src.window import ClosingRule

logger = logging.getLogger(__name__)


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
            keeper = BadRowKeeper(letters.write, BadRowGuard(arguments.max_bad_fraction), counts)
            _serve(arguments, dictionaries, source, keeper, flag, counts)
    except WritingStopped as stop:
        logger.info("%s; they are read again", stop)
    except (DictionaryError, SourceError, ChannelError, BrokenFeedError, ValueError) as error:
        logger.error("%s", error)
        return 1
    finally:
        logger.info("%s", describe(counts))
        finalize()
    return 0


def _serve(
    arguments: argparse.Namespace,
    dictionaries: Dictionaries,
    source: RowSource,
    bad_rows: BadRowKeeper,
    flag: StopFlag,
    counts: ConsumerCounts,
) -> None:
    """Reads and sends; a channel that is lost with its engine is made anew."""
    assembler = WindowAssembler(
        source,
        FeatureBuilder(dictionaries),
        dictionaries.fingerprint,
        arguments.num_shards,
        arguments.value_format,
        arguments.topic,
        bad_rows,
    )
    first = starting_commit(source, arguments.start)
    while not flag.is_set():
        sender = _open_channel(arguments, flag)
        if sender is None:
            return
        rule = ClosingRule(arguments.window_size, arguments.num_shards, arguments.window_seconds)
        try:
            consume(source, sender, assembler, rule, first, flag, counts)
        except ChannelError as error:
            # What the queues held is gone: the trainer skips what it got, and misses nothing.
            logger.warning("the channel is gone (%s): sending again what is not committed", error)
            first = source.committed() or first
        finally:
            sender.close()


def _open_channel(arguments: argparse.Namespace, flag: StopFlag) -> Optional[WindowSender]:
    """Waits for the engine for reconnect_seconds; None when told to stop meanwhile.

    Raises:
        ChannelError: The engine stayed away, or another consumer has the channel.
    """
    give_up_at = time.monotonic() + arguments.reconnect_seconds
    sender = open_channel(
        arguments.address,
        arguments.namespace,
        arguments.dataset_name,
        arguments.num_shards,
        arguments.max_queue_size,
        lambda: flag.is_set() or time.monotonic() >= give_up_at,
        PacedLog(logger.warning),
    )
    if sender is None and not flag.is_set():
        raise ChannelError(
            f"no engine at {arguments.address} within {arguments.reconnect_seconds:g} s"
        )
    return sender
