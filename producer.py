"""Step 4: sends the rows of each file to the topic, one process and one partition per file."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Sequence

from src.cluster.broker_list import ClusterConfigError
from src.cluster.settings import client_settings
from src.config import add_shared_flags
from src.process.flags import FlagParser, number_flag, optional_path_flag
from src.process.logs import configure_logging
from src.process.stop import StopFlag, stop_on_signals
from src.rows.criteo import VALUE_FORMATS
from src.rows.opened_file import (
    STANDARD_INPUT,
    OpenedFile,
    ReadStopped,
    RowFileError,
    open_rows,
    refuse_one_pipe_twice,
)
from src.stream.produce import (
    COMPRESSION_TYPES,
    ProduceError,
    ProduceOptions,
    check_compression,
    check_partitions,
    send_opened,
    with_message_limit,
)
from src.stream.producer_processes import ProducerProcesses

logger = logging.getLogger("producer")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--file1",
        type=optional_path_flag,
        default="./output1.tsv",
        help="file for partition 0, plain, gzip or zstd; - is standard input; or empty",
    )
    parser.add_argument(
        "--file2",
        type=optional_path_flag,
        default="./output2.tsv",
        help="file for partition 1, as --file1",
    )
    parser.add_argument(
        "--rate", type=number_flag, default=0.0, help="rows per second and file; 0 for no limit"
    )
    parser.add_argument(
        "--value_format", choices=VALUE_FORMATS, default="tsv", help="format of a message's value"
    )
    parser.add_argument(
        "--compression_type",
        choices=COMPRESSION_TYPES,
        default="none",
        help="compression of the messages",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue after the last row in the partition"
    )
    add_shared_flags(parser, "bootstrap_servers", "kafka_config", "topic")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.rate < math.inf:
        parser.error(f"--rate must be a number from 0 on, not {arguments.rate}")
    if not (arguments.file1 or arguments.file2):
        parser.error("nothing to produce: --file1 and --file2 are empty")
    if arguments.file1 == arguments.file2 == STANDARD_INPUT:
        parser.error("--file1 and --file2 are both standard input, which can be read only once")
    if arguments.resume and arguments.value_format == "json":
        parser.error("--resume needs the row numbers that only --value_format=tsv sends as keys")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Sends the files; returns 0 when every row was delivered or a stop was asked for."""
    arguments = parse_args(argv)
    configure_logging()
    try:
        cluster = client_settings(arguments.bootstrap_servers, arguments.kafka_config)
    except ClusterConfigError as error:
        logger.error("%s", error)
        return 2
    cluster.log_notes(logger)
    stop = StopFlag()
    stop_on_signals(stop)
    options = ProduceOptions(
        cluster,
        arguments.topic,
        arguments.value_format,
        arguments.rate,
        arguments.resume,
        arguments.compression_type,
    )
    file_of_partition = {0: arguments.file1, 1: arguments.file2}
    files: dict[int, OpenedFile] = {}
    try:
        for partition, name in file_of_partition.items():
            if name:
                files[partition] = open_rows(name, stop.is_set)
        refuse_one_pipe_twice(files.values())
        check_compression(arguments.compression_type)
        check_partitions(options, max(files) + 1)
        options = with_message_limit(options)
    except (ProduceError, RowFileError) as error:
        logger.error("%s", error)
        return 1
    except ReadStopped:
        logger.info("stopped by %s", stop.reason)
        return 0

    began = time.monotonic()
    processes = ProducerProcesses(send_opened, options)
    for partition, file in files.items():
        processes.start(file, partition)
    processes.wait(stop)
    seconds = time.monotonic() - began
    logger.info(
        "produced %d rows from %d files in %.1f s (%.0f rows/s)%s",
        processes.delivered,
        len(files),
        seconds,
        processes.delivered / seconds,
        f", stopped by {stop.reason}" if stop.is_set() else "",
    )
    return 1 if processes.failed else 0


if __name__ == "__main__":
    sys.exit(main())
