"""Puts the consumer's parts together, runs it and takes it apart again."""

from __future__ import annotations

import argparse
import logging

from src.channel import ChannelError, WindowSender, finalize
from src.consume import (
    ConsumerCounts,
    FeatureBuilder,
    WindowAssembler,
    consume,
    describe,
    starting_commit,
)
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
            arguments.allow_loss,
        ) as source:
            _serve(arguments, dictionaries, source, flag, counts)
    except (DictionaryError, SourceError, ChannelError, ValueError) as error:
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
    first = starting_commit(source, arguments.start)
    sender = WindowSender(
        arguments.address,
        arguments.namespace,
        arguments.dataset_name,
        arguments.num_shards,
        arguments.max_queue_size,
    )
    try:
        assembler = WindowAssembler(
            source,
            FeatureBuilder(dictionaries),
            dictionaries.fingerprint,
            arguments.num_shards,
            arguments.value_format,
            counts,
        )
        rule = ClosingRule(arguments.window_size, arguments.num_shards, arguments.window_seconds)
        consume(source, sender, assembler, rule, first, flag, counts)
    finally:
        sender.close()
