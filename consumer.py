"""Step 5: reads the topic, makes features of each window of rows and sends it to the trainer."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Optional

from src.channel.window import DEFAULT_MAX_WINDOW_SIZE
from src.config import ConfigError, add_shared_flags, parse_with_config_file
from src.process.logs import configure_logging
from src.process.stop import StopFlag, stop_on_signals
from src.rows.criteo import VALUE_FORMATS

logger = logging.getLogger("consumer")


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Reads the flags.

    Raises:
        ConfigError: The file that --config_path names can't be read or does not fit.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    flag = parser.add_argument
    flag("--num_shards", type=int, default=1, help="ranks that share the stream, one shard each")
    flag("--max_dict", default="./all_val_max_dict.pkl", help="largest value of each dense column")
    flag("--min_dict", default="./all_val_min_dict.pkl", help="smallest value of each")
    flag("--map_dict", default="./cat2id_dict.pkl", help="ids of columns and categorical values")
    flag("--profile", default="./data_profile.json", help="what the dictionaries' rows look like")
    flag("--window_size", type=int, default=1000, help="rows a shard that close a window")
    flag("--window_seconds", type=float, default=1.0, help="time after its first row that does")
    flag(
        "--max_window_size",
        type=int,
        default=DEFAULT_MAX_WINDOW_SIZE,
        help="rows a shard that go as one window where the rows of several wait already",
    )
    flag("--value_format", choices=VALUE_FORMATS, default="tsv", help="wire format of a row")
    flag(
        "--start",
        default="committed",
        help="committed (earliest where nothing is), earliest, latest, an ISO time, "
        "or partition:offset,...",
    )
    flag("--allow_loss", action="store_true", help="go on where retention has deleted rows")
    flag(
        "--max_bad_fraction",
        type=float,
        default=0.05,
        help="share of the last 10,000 rows that may be bad before it stops",
    )
    flag("--max_queue_size", type=int, default=10, help="windows a shard that may wait unread")
    add_shared_flags(
        parser,
        *("address", "namespace", "dataset_name"),
        *("bootstrap_servers", "topic", "group_id", "reconnect_seconds"),
        *("vocab_size", "dense_transform", "admit_count"),
        *("metrics_port", "metrics_host"),
    )
    arguments = parse_with_config_file(parser, argv)
    window = ("window_size", "window_seconds", "max_window_size")
    for name in ("num_shards", *window, "max_queue_size"):
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be positive, not {getattr(arguments, name)}")
    if not 0 <= arguments.max_bad_fraction <= 1:
        parser.error(f"--max_bad_fraction must be from 0 to 1, not {arguments.max_bad_fraction}")
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the consumer until it is stopped."""
    configure_logging()
    try:
        arguments = parse_args(argv)
    except ConfigError as error:
        logger.error("%s", error)
        return 2
    flag = StopFlag()
    stop_on_signals(flag)
    from src.consumer.service import run_consumer  # MindPandas takes seconds: --help should not

    return run_consumer(arguments, flag)


if __name__ == "__main__":
    sys.exit(main())
