"""Step 2: creates the topic, or adds partitions to a topic that has too few."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from src.cluster.broker_list import ClusterConfigError
from src.cluster.settings import client_settings
from src.cluster.topic import TopicError, ensure_topic
from src.config import add_shared_flags
from src.process.flags import FlagParser, count_flag
from src.process.logs import configure_logging

logger = logging.getLogger("kafka_client")

MAX_PARTITIONS = 10_000  # Kafka's controllers refuse more in one request
MAX_COPIES = 32_767  # the largest number of Kafka's protocol


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_shared_flags(parser, "bootstrap_servers", "kafka_config", "topic")
    parser.add_argument(
        "--num_partitions",
        type=count_flag(1, MAX_PARTITIONS),
        default=2,
        help="number of partitions, one per file",
    )
    parser.add_argument(
        "--replication_factor",
        type=count_flag(1, MAX_COPIES),
        default=1,
        help="number of copies of each partition",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Creates the topic; returns 0 when it is there with enough partitions."""
    arguments = parse_args(argv)
    configure_logging()
    try:
        cluster = client_settings(arguments.bootstrap_servers, arguments.kafka_config)
    except ClusterConfigError as error:
        logger.error("%s", error)
        return 2
    cluster.log_notes(logger)
    try:
        ensure_topic(
            cluster,
            arguments.topic,
            arguments.num_partitions,
            arguments.replication_factor,
        )
    except TopicError as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
