"""The documented consumer as a process: windows of a topic → row-wise features → DataSender."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kafka import KafkaConsumer, TopicPartition
from mindpandas.channel import DataSender

from benchmarks.documented.features import Message, RowFunctions, window_features
from src.dictionaries.dictionaries import load_dictionaries
from src.process.flags import FlagParser


def stream_consumer(bootstrap_servers: str, topic: str) -> KafkaConsumer:
    """A consumer of all partitions of a topic, from their beginnings."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=200,
    )
    partitions = sorted(consumer.partitions_for_topic(topic))
    consumer.assign([TopicPartition(topic, number) for number in partitions])
    return consumer


def windows_of_messages(
    consumer: KafkaConsumer, window_size: int, stopped: Callable[[], bool]
) -> Iterator[list[Message]]:
    """The messages of a topic as windows of a fixed size."""
    window: list[Message] = []
    while not stopped():
        for message in consumer:
            window.append((message.key, message.value))
            if len(window) == window_size:
                yield window
                window = []
            if stopped():
                break


def main(argv: Sequence[str] | None = None) -> None:
    """Runs until it is killed."""
    parser = FlagParser(description=__doc__)
    names = ("bootstrap_servers", "topic", "address", "namespace", "dataset_name")
    for name in (*names, "max_dict", "min_dict", "map_dict"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--window_size", type=int, required=True)
    args = parser.parse_args(argv)
    dictionaries = load_dictionaries(args.max_dict, args.min_dict, args.map_dict)
    functions = RowFunctions(dictionaries)
    sender = DataSender(
        address=args.address,
        namespace=args.namespace,
        num_shards=1,
        dataset_name=args.dataset_name,
    )
    consumer = stream_consumer(args.bootstrap_servers, args.topic)
    for messages in windows_of_messages(consumer, args.window_size, lambda: False):
        sender.send(window_features(messages, functions))


if __name__ == "__main__":
    main()
