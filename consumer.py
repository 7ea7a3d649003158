"""Step 5: reads the topic, makes features of each window of rows and sends it to the trainer."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial

from src.channel.closing_rule import DEFAULT_MAX_WINDOW_SIZE, ClosingRule
from src.config import ConfigError, add_shared_flags, parse_with_config_file
from src.consumer.counts import ConsumerCounts
from src.process.logs import configure_logging
from src.process.stop import StopFlag, stop_on_signals
from src.rows.criteo import VALUE_FORMATS

logger = logging.getLogger("consumer")

# The flags whose default and help text stand in default_config.yaml.
SHARED_FLAGS = (
    "address",
    "namespace",
    "dataset_name",
    "bootstrap_servers",
    "topic",
    "group_id",
    "reconnect_seconds",
    "vocab_size",
    "dense_transform",
    "admit_count",
    "metrics_port",
    "metrics_host",
)
POSITIVE_FLAGS = (
    "num_shards",
    "window_size",
    "window_seconds",
    "max_window_size",
    "max_queue_size",
)


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
        arguments.bootstrap_servers,
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


def make_parser() -> argparse.ArgumentParser:
    """The flags, save --config_path."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    flag = parser.add_argument
    flag("--num_shards", type=int, default=1, help="ranks that share the stream, one shard each")
    flag(
        "--max_dict", default="./all_val_max_dict.pkl", help="file with each dense column's maximum"
    )
    flag(
        "--min_dict", default="./all_val_min_dict.pkl", help="file with each dense column's minimum"
    )
    flag("--map_dict", default="./cat2id_dict.pkl", help="file with the ids of columns and values")
    flag(
        "--profile",
        default="./data_profile.json",
        help="file that describes the rows that the dictionaries were made from",
    )
    flag("--window_size", type=int, default=1000, help="rows per shard after which a window closes")
    flag(
        "--window_seconds",
        type=float,
        default=1.0,
        help="seconds after its first row at which a window closes",
    )
    flag(
        "--max_window_size",
        type=int,
        default=DEFAULT_MAX_WINDOW_SIZE,
        help="most rows per shard in one window when many rows already wait",
    )
    flag("--value_format", choices=VALUE_FORMATS, default="tsv", help="wire format of a row")
    flag(
        "--start",
        default="committed",
        help="where to start: committed (earliest if nothing is committed), earliest, latest, "
        "an ISO time, or partition:offset,...",
    )
    flag("--allow_loss", action="store_true", help="continue where retention has deleted rows")
    flag(
        "--max_bad_fraction",
        type=float,
        default=0.05,
        help="largest share of bad rows in the last 10,000; above it the consumer stops",
    )
    flag("--max_queue_size", type=int, default=10, help="most unread windows per shard")
    add_shared_flags(parser, *SHARED_FLAGS)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags.

    Raises:
        ConfigError: The file that --config_path names can't be read or has a wrong key or value.
    """
    parser = make_parser()
    arguments = parse_with_config_file(parser, argv)
    for name in POSITIVE_FLAGS:
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be positive, not {getattr(arguments, name)}")
    if not 0 <= arguments.max_bad_fraction <= 1:
        parser.error(f"--max_bad_fraction must be from 0 to 1, not {arguments.max_bad_fraction}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the consumer until it is stopped."""
    configure_logging()
    try:
        arguments = parse_args(argv)
    except ConfigError as error:
        logger.error("%s", error)
        return 2
    flag = StopFlag()
    stop_on_signals(flag)
    from src.consumer.service import exit_code_of  # takes seconds too

    return exit_code_of(lambda counts: consume_topic(arguments, flag, counts))


if __name__ == "__main__":
    sys.exit(main())
