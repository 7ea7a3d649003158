"""Step 5: reads the topic, makes features of each window of rows and sends it to the trainer."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial

from src.channel.closing_rule import ClosingRule
from src.config import ConfigError
from src.consumer.counts import ConsumerCounts
from src.consumer.flags import parse_consumer_flags
from src.process.exit_handlers import exit_in_time
from src.process.logs import configure_logging
from src.process.memory import keep_freed_memory, use_one_heap
from src.process.stop import StopFlag, stop_on_signals

logger = logging.getLogger("consumer")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags.

    Raises:
        ConfigError: The file that --config_path names can't be read or has a wrong key or value.
    """
    return parse_consumer_flags(__doc__ or "", argv)


def consume_topic(arguments: argparse.Namespace, flag: StopFlag, counts: ConsumerCounts) -> None:
    """Runs source → window → column functions → DataSender until the flag is set."""
    # MindPandas takes seconds to import: --help should not.
    from src.channel.sender import WindowSender
    from src.consumer.drift_watch import drift_watch
    from src.consumer.service import keeping_bad_rows, send_windows
    from src.consumer.window_assembler import WindowAssembler
    from src.dictionaries.dictionaries import load_dictionaries
    from src.features.feature_builder import FeatureBuilder
    from src.stream.row_source import RowSource

    dictionaries = load_dictionaries(arguments.max_dict, arguments.min_dict, arguments.map_dict)
    source = RowSource(
        arguments.cluster,
        arguments.topic,
        arguments.group_id,
        arguments.reconnect_seconds,
        flag.is_set,
        arguments.allow_loss,
    )
    with source, keeping_bad_rows(arguments, flag, counts) as bad_rows:
        closing_rule = ClosingRule(
            arguments.window_size,
            arguments.num_shards,
            arguments.window_seconds,
            arguments.max_window_size,
        )
        column_functions = FeatureBuilder(
            dictionaries, arguments.dense_transform, arguments.vocab_size
        )
        windows = WindowAssembler(
            source,
            column_functions,
            arguments.num_shards,
            arguments.value_format,
            arguments.topic,
            bad_rows,
            sends_unknown=arguments.admit_count > 0,
            sends_keys=arguments.cross_bits > 0,
            watch=drift_watch(arguments.profile, dictionaries),
        )
        make_sender = partial(
            WindowSender,  # a DataSender whose windows are acknowledged
            arguments.address,
            arguments.namespace,
            arguments.dataset_name,
            arguments.num_shards,
            arguments.max_queue_size,
        )
        send_windows(arguments, source, windows, closing_rule, make_sender, flag, counts)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the consumer until it is stopped."""
    configure_logging()
    use_one_heap()
    keep_freed_memory()
    try:
        arguments = parse_args(argv)
    except ConfigError as error:
        logger.error("%s", error)
        return 2
    arguments.cluster.log_notes(logger)
    flag = StopFlag()
    stop_on_signals(flag)
    from src.consumer.service import exit_code_of  # takes seconds too

    return exit_code_of(lambda counts: consume_topic(arguments, flag, counts))


if __name__ == "__main__":
    exit_in_time(main())
