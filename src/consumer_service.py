"""Puts the consumer's parts together, runs it and takes it apart again."""

from __future__ import annotations

import argparse
import logging

from src.bad_rows import BadRowGuard, BrokenFeedError
from src.channel import ChannelError, WindowSender, finalize
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
        with RowSource(
            arguments.bootstrap_servers,
            arguments.topic,
            arguments.group_id,
            arguments.reconnect_seconds,
            flag.is_set,
        ) as source:
            _serve(arguments, dictionaries, source, flag, counts)
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
    flag: StopFlag,
    counts: ConsumerCounts,
) -> None:
    first = starting_commit(source, arguments.start, arguments.allow_loss)
    sender = WindowSender(
        arguments.address,
        arguments.namespace,
        arguments.dataset_name,
        arguments.num_shards,
        arguments.max_queue_size,
    )
    letters = DeadLetterWriter(
        arguments.bootstrap_servers, arguments.topic, arguments.reconnect_seconds, flag.is_set
    )
    try:
        assembler = WindowAssembler(
            source,
            FeatureBuilder(dictionaries),
            dictionaries.fingerprint,
            arguments.num_shards,
            arguments.value_format,
            arguments.topic,
            BadRowKeeper(letters.write, BadRowGuard(arguments.max_bad_fraction), counts),
        )
        rule = ClosingRule(arguments.window_size, arguments.num_shards, arguments.window_seconds)
        consume(source, sender, assembler, rule, first, flag, counts)
    finally:
        letters.close()
        sender.close()
