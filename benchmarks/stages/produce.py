"""``produce``: the rows of two files → acknowledged by the broker, a process for each file.

The limit is kafka-python itself with this project's settings: ``send`` gets lines that are in
memory already, and nothing else is done.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Callable

import numpy as np
import pandas as pd
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from benchmarks.documented.produce import produce_rows
from benchmarks.inputs import PARTITIONS, row_files
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.timing import alternate, medians
from src.cluster.topic import ensure_topic
from src.rows.criteo import ParsedRows
from src.rows.parsing import parse_messages
from src.stream.produce import ProduceOptions, send_file

Produce = Callable[[Path, int, str, str], tuple[float, float]]
"""(file, partition, brokers, topic) → (begin, last acknowledgement), monotonic s."""


def run(settings: Settings) -> list[Result]:
    """Measures all three ways, rows/s over both files."""
    files = row_files(settings.work_dir, settings.rows)
    names = {"documented": produce_documented, "ours": produce_ours, "limit": send_ready}
    topics = {name: new_topic(settings.bootstrap_servers) for name in names}
    processes = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PARTITIONS, processes, logging.disable, (logging.INFO,)) as pool:
        ways = {
            name: lambda name=name, produce=produce: (
                settings.rows
                / _seconds(pool, produce, files, settings.bootstrap_servers, topics[name])
            )
            for name, produce in names.items()
        }
        for name in ("documented", "ours"):
            ways[name]()
        check_equal(settings, topics)
        median = medians(alternate(ways, settings.repeats, "produce"))
    return [Result.of_medians("produce", "rows/s", median)]


def new_topic(bootstrap_servers: str, partitions: int = PARTITIONS) -> str:
    """Makes a topic and returns its name."""
    name = f"bench_{uuid.uuid4().hex[:8]}"
    ensure_topic(bootstrap_servers, name, partitions, 1)
    return name


def _seconds(
    pool: Executor, produce: Produce, files: Sequence[Path], servers: str, topic: str
) -> float:
    """From the first row of either file to the last acknowledgement."""
    futures = [
        pool.submit(produce, path, partition, servers, topic)
        for partition, path in enumerate(files)
    ]
    began, ended = zip(*(future.result() for future in futures))
    return float(max(ended) - min(began))


def produce_documented(path: Path, partition: int, servers: str, topic: str) -> tuple[float, float]:
    """The documented way."""
    began = time.monotonic()
    produce_rows(path, partition, servers, topic)
    return began, time.monotonic()


def produce_ours(path: Path, partition: int, servers: str, topic: str) -> tuple[float, float]:
    """This project's way."""
    began = time.monotonic()
    send_file(path, partition, ProduceOptions(servers, topic), lambda: False)
    return began, time.monotonic()


def send_ready(path: Path, partition: int, servers: str, topic: str) -> tuple[float, float]:
    """The limit."""
    values = path.read_bytes().splitlines()
    producer = KafkaProducer(
        bootstrap_servers=servers,
        acks="all",
        enable_idempotence=True,
        linger_ms=20,
        batch_size=1 << 18,
        metrics_enabled=False,
    )
    began = time.monotonic()
    for value in values:
        producer.send(topic, value=value, partition=partition)
    producer.flush()
    ended = time.monotonic()
    producer.close()
    return began, ended


def check_equal(settings: Settings, topics: dict[str, str]) -> None:
    """Fails unless both topics hold the same rows in the same order."""
    for partition in range(PARTITIONS):
        documented_rows, own_rows = (
            read_rows(settings.bootstrap_servers, topics[name], partition, value_format)
            for name, value_format in (("documented", "json"), ("ours", "tsv"))
        )
        np.testing.assert_array_equal(own_rows.label, documented_rows.label)
        pd.testing.assert_frame_equal(own_rows.dense, documented_rows.dense)
        one, other = own_rows.categorical, documented_rows.categorical
        pd.testing.assert_frame_equal(one.astype(object), other.astype(object))


def read_rows(servers: str, topic: str, partition: int, value_format: str) -> ParsedRows:
    """All rows of a partition; fails if one of them is bad."""
    handle = TopicPartition(topic, partition)
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    consumer.assign([handle])
    consumer.seek_to_beginning(handle)
    end = consumer.end_offsets([handle])[handle]
    values: list[bytes] = []
    while len(values) < end:
        records = consumer.poll(timeout_ms=5_000, max_records=10_000)
        if not records:
            raise RuntimeError(f"only {len(values)} of {end} rows of {topic} can be read")
        values.extend(record.value for record in records[handle])
    consumer.close()
    rows = parse_messages(values, value_format)
    if rows.bad:
        raise AssertionError(f"{topic} holds bad rows: {rows.bad[0]}")
    return rows
