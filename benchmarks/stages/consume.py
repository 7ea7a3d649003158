"""``consume``: rows of a topic → features → windows that the channel has accepted.

A process at the other end drains the channel, so that nothing after the channel is slow. The limit
is the rate at which kafka-python reads the topic and drops the rows.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Callable, cast

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from mindpandas.channel import DataSender

from benchmarks.documented.consume import stream_consumer, windows_of_messages
from benchmarks.documented.features import RowFunctions, window_features
from benchmarks.documented.produce import produce_rows
from benchmarks.inputs import PARTITIONS, dictionary_files, row_files
from benchmarks.processes.drain import NAMESPACE, Drain
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.stages.produce import new_topic
from benchmarks.timing import alternate, medians
from src.channel.closing_rule import DEFAULT_MAX_WINDOW_SIZE, ClosingRule
from src.channel.engine import finalize
from src.channel.sender import WindowSender
from src.consumer.bad_row_keeper import BadRowKeeper
from src.consumer.consume import consume
from src.consumer.counts import ConsumerCounts
from src.consumer.window_assembler import WindowAssembler
from src.dictionaries.dictionaries import Dictionaries
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.process.memory import collected_rarely
from src.process.stop import StopFlag
from src.rows.bad_rows import BadRowGuard
from src.stream.position import Commit
from src.stream.produce import ProduceOptions, send_file
from src.stream.row_source import RowSource

ROWS_FACTOR = 3  # more rows than in other stages, so that a session's start counts little
DOCUMENTED_SHARE = 90  # the documented way gets one row of this number
WINDOW_SECONDS = 1.0
POLL_ROWS = 10_000


@dataclass(frozen=True)
class Topics:
    """The same rows on both wires."""

    lines: str
    documented: str


class CountedSender:
    """Sends through a sender, and sets the stop flag after a number of rows."""

    def __init__(self, sender: WindowSender, rows: int, flag: StopFlag) -> None:
        self._sender = sender
        self._missing = rows
        self._flag = flag

    def check(self) -> None:
        """As the sender's own method."""
        self._sender.check()

    def send_window(self, window: Array, give_up: Callable[[], bool]) -> bool:
        """As the sender's own method."""
        is_sent = self._sender.send_window(window, give_up)
        self._missing -= len(window)
        if self._missing <= 0:
            self._flag.set("all rows are sent")
        return is_sent


def unkept(counts: ConsumerCounts) -> BadRowKeeper:
    """A keeper that writes no bad rows: the rows of a benchmark are good."""
    return BadRowKeeper(lambda dead_letters: None, BadRowGuard(max_fraction=1.0), counts)


class OwnConsumer:
    """This project's consumer on a topic; each run starts at the beginning."""

    def __init__(
        self, settings: Settings, topic: str, dictionaries: Dictionaries, sender: WindowSender
    ) -> None:
        self._window_size = settings.windows[0]
        self._rows = settings.rows - settings.rows % self._window_size
        self._sender = sender
        self.source = RowSource(settings.bootstrap_servers, topic, f"bench_{topic}")
        self._topic = topic
        self._features = FeatureBuilder(dictionaries)
        self._first = Commit(self.source.resolve_start("earliest"), session=0)

    def run(self, drain: Drain, keep: bool = False) -> tuple[float, Sequence[Array]]:
        """(rows/s until the last window was accepted, the windows if ``keep``)."""
        drain.expect(self._rows, keep)
        flag, counts = StopFlag(), ConsumerCounts()
        assembler = WindowAssembler(
            self.source, self._features, 1, "tsv", self._topic, unkept(counts)
        )
        sender = cast(WindowSender, CountedSender(self._sender, self._rows, flag))
        rule = ClosingRule(self._window_size, 1, WINDOW_SECONDS, DEFAULT_MAX_WINDOW_SIZE)
        with collected_rarely():  # as consumer.py does
            began = time.monotonic()
            consume(self.source, sender, assembler, rule, self._first, flag, counts)
            seconds = time.monotonic() - began
        return counts.rows / seconds, drain.drained().windows


class DocumentedConsumer:
    """The documented consumer on a topic; each run starts at the beginning."""

    def __init__(
        self, settings: Settings, topic: str, dictionaries: Dictionaries, sender: DataSender
    ) -> None:
        self._size = settings.windows[0]
        self._windows = max(1, settings.rows // DOCUMENTED_SHARE // self._size)
        self._sender = sender
        self.consumer = stream_consumer(settings.bootstrap_servers, topic)
        self._functions = RowFunctions(dictionaries)

    def run(self, drain: Drain, keep: bool = False) -> tuple[float, Sequence[Array]]:
        """As ``OwnConsumer.run``."""
        rows = self._windows * self._size
        drain.expect(rows, keep)
        self.consumer.seek_to_beginning()
        began = time.monotonic()
        stream = windows_of_messages(self.consumer, self._size, lambda: False)
        for messages in islice(stream, self._windows):
            self._sender.send(window_features(messages, self._functions))
        seconds = time.monotonic() - began
        return rows / seconds, drain.drained().windows


def run(settings: Settings) -> list[Result]:
    """Measures rows/s."""
    settings = dataclasses.replace(settings, rows=ROWS_FACTOR * settings.rows)
    dictionaries = dictionary_files(settings.work_dir).load()
    topics = fill_topics(settings)
    name = uuid.uuid4().hex[:8]
    own_sender = WindowSender(settings.address, NAMESPACE, f"own_{name}", 1)
    stock = DataSender(
        address=settings.address, namespace=NAMESPACE, num_shards=1, dataset_name=f"stock_{name}"
    )
    own = OwnConsumer(settings, topics.lines, dictionaries, own_sender)
    theirs = DocumentedConsumer(settings, topics.documented, dictionaries, stock)
    try:
        with (
            Drain(settings.address, f"own_{name}", is_stock=False) as own_drain,
            Drain(settings.address, f"stock_{name}", is_stock=True) as stock_drain,
        ):
            check_equal(own.run(own_drain, keep=True)[1], theirs.run(stock_drain, keep=True)[1])
            ways = {
                "documented": lambda: theirs.run(stock_drain)[0],
                "ours": lambda: own.run(own_drain)[0],
                "limit": lambda: read_only(settings, topics.lines),
            }
            median = medians(alternate(ways, settings.repeats, "consume", warm_up=False))
    finally:
        own.source.close()
        theirs.consumer.close()
        own_sender.close()
        stock.actor.terminate()
        finalize()
    return [Result.of_medians("consume", "rows/s", median)]


def fill_topics(settings: Settings) -> Topics:
    """Produces the rows on both wires."""
    topics = Topics(new_topic(settings.bootstrap_servers), new_topic(settings.bootstrap_servers))
    for partition, path in enumerate(row_files(settings.work_dir, settings.rows)):
        options = ProduceOptions(settings.bootstrap_servers, topics.lines)
        send_file(path, partition, options, lambda: False)
        produce_rows(path, partition, settings.bootstrap_servers, topics.documented)
    return topics


def read_only(settings: Settings, topic: str) -> float:
    """The limit, rows/s."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=POLL_ROWS,
        max_partition_fetch_bytes=4 << 20,
        metrics_enabled=False,
    )
    handles = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(handles)
    rows, began = 0, time.monotonic()
    while rows < settings.rows:
        rows += sum(map(len, consumer.poll(timeout_ms=1_000).values()))
    seconds = time.monotonic() - began
    consumer.close()
    return rows / seconds


def check_equal(windows: Sequence[Array], documented_windows: Sequence[Any]) -> None:
    """Fails unless every row of the documented windows is one of ours.

    The order cannot be compared: the documented consumer takes partitions as they come.
    """
    ours = {
        _fingerprint(row["id"], row["weight"], row["label"]) for window in windows for row in window
    }
    theirs = [_fingerprint(*row) for window in documented_windows for row in window]
    strange = sum(fingerprint not in ours for fingerprint in theirs)
    if strange or not theirs:
        raise AssertionError(f"{strange} of {len(theirs)} documented rows are not among ours")


def _fingerprint(ids: Any, weights: Any, label: Any) -> bytes:
    parts = ((ids, np.int32), (weights, np.float32), (label, np.float32))
    return b"".join(np.asarray(part, dtype=kind).tobytes() for part, kind in parts)
