"""The flags of ``consumer.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from src.channel.closing_rule import DEFAULT_MAX_WINDOW_SIZE
from src.cluster.settings import client_settings
from src.config import MAX_SECONDS, add_shared_flags, parse_with_config_file
from src.process.flags import FlagParser, number_flag, path_text_flag
from src.rows.bad_rows import DEFAULT_MAX_BAD_FRACTION
from src.rows.criteo import VALUE_FORMATS

# The flags whose default and help text stand in default_config.yaml.
SHARED_FLAGS = (
    "address",
    "namespace",
    "dataset_name",
    "bootstrap_servers",
    "kafka_config",
    "topic",
    "group_id",
    "reconnect_seconds",
    "vocab_size",
    "dense_transform",
    "admit_count",
    "cross_bits",
    "max_dict",
    "min_dict",
    "map_dict",
    "metrics_port",
    "metrics_host",
)
LARGEST = {  # of each flag that must be positive
    "num_shards": 10_000,
    "window_size": 10**9,
    "window_seconds": MAX_SECONDS,
    "max_window_size": 10**9,
    "max_queue_size": 10**6,
}


def parse_consumer_flags(description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags, and as ``cluster`` the settings of the connection to Kafka.

    Args:
        description: What --help says first.
        argv: The flags; None takes the process's own.

    Raises:
        ConfigError: A file that a flag names can't be read or has a wrong key or value.
        SystemExit: argparse refused a flag, or was asked for help.
    """
    parser = _make_parser(description)
    arguments = parse_with_config_file(parser, argv)
    for name, largest in LARGEST.items():
        value = getattr(arguments, name)
        if value <= 0:
            parser.error(f"--{name} must be positive, not {value}")
        if value > largest:
            parser.error(f"--{name} must be at most {largest}, not {value}")
    if not 0 <= arguments.max_bad_fraction <= 1:
        parser.error(f"--max_bad_fraction must be from 0 to 1, not {arguments.max_bad_fraction}")
    arguments.cluster = client_settings(arguments.bootstrap_servers, arguments.kafka_config)
    return arguments


def _make_parser(description: str) -> argparse.ArgumentParser:
    """The flags, save --config_path."""
    parser = FlagParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    flag = parser.add_argument
    flag("--num_shards", type=int, default=1, help="ranks that share the stream, one shard each")
    flag(
        "--profile",
        type=path_text_flag,
        default="./data_profile.json",
        help="file that describes the rows that the dictionaries were made from",
    )
    flag("--window_size", type=int, default=1000, help="rows per shard after which a window closes")
    flag(
        "--window_seconds",
        type=number_flag,
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
    flag(
        "--allow_loss",
        action="store_true",
        help="continue where retention has deleted rows, or messages can't be read",
    )
    flag(
        "--max_bad_fraction",
        type=number_flag,
        default=DEFAULT_MAX_BAD_FRACTION,
        help="largest share of bad rows in the last 10,000; above it the consumer stops",
    )
    flag("--max_queue_size", type=int, default=10, help="most unread windows per shard")
    add_shared_flags(parser, *SHARED_FLAGS)
    return parser
