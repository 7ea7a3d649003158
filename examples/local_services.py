"""Starts and stops what the example needs on this machine: Apache Kafka and the yr engine.

    python examples/local_services.py up|down|status [--kafka_port 9092] [--data_dir DIR]

``up`` leaves both running and records what it started. ``down`` stops exactly that. A service that
runs already is used and never stopped.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.services.common import HOST, ROOT, ServiceError
from examples.services.left_running import LocalServices
from src.process.flags import FlagParser, path_flag, port_flag

logger = logging.getLogger("local_services")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = FlagParser(
        description="Start, stop or list Apache Kafka and the yr engine on this machine."
    )
    parser.add_argument(
        "action",
        choices=("up", "down", "status"),
        help="start both, stop what up has started, or show which of them run",
    )
    parser.add_argument(
        "--kafka_port", type=port_flag, default=9092, help="the broker's port (%(default)s)"
    )
    parser.add_argument(
        "--data_dir",
        type=path_flag,
        default=ROOT / "build" / "services",
        help="folder of Kafka's data and of the record of what was started (build/services)",
    )
    parser.add_argument(
        "--address", default=HOST, help="address the engine listens on (%(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one action; returns 0, or 1 if it failed or `status` found a service not running."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    services = LocalServices(args.data_dir, args.kafka_port, args.address)
    try:
        if args.action == "status":
            return 0 if services.status() else 1
        services.up() if args.action == "up" else services.down()
    except ServiceError as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
