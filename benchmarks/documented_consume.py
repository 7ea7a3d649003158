"""The documented consumer as a process: windows of a topic → row-wise features → DataSender."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindpandas.channel import DataSender

from benchmarks import documented
from src.dictionaries.dictionaries import load_dictionaries


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Runs until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ("bootstrap_servers", "topic", "address", "namespace", "dataset_name")
    for name in (*names, "max_dict", "min_dict", "map_dict"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--window_size", type=int, required=True)
    args = parser.parse_args(argv)
    dictionaries = load_dictionaries(args.max_dict, args.min_dict, args.map_dict)
    functions = documented.RowFunctions(dictionaries)
    sender = DataSender(
        address=args.address,
        namespace=args.namespace,
        num_shards=1,
        dataset_name=args.dataset_name,
    )
    consumer = documented.stream_consumer(args.bootstrap_servers, args.topic)
    for messages in documented.windows_of_messages(consumer, args.window_size, lambda: False):
        sender.send(documented.window_features(messages, functions))


if __name__ == "__main__":
    main()
