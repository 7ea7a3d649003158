"""The documented way, stage by stage: plain code that does what the example's page describes.

A row is a JSON list on the wire, with the JSON list of column names as its key. A window is a
MindPandas frame whose rows a function turns into features one by one. MindSpore gets row after row
from ``__getitem__`` and makes batches of them with ``.batch()``. Nothing here is clever, and
nothing is slow on purpose.

The features are those of `src.features`, so that outputs can be compared; the training step is in
`benchmarks.documented_step`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import mindpandas
import numpy as np
import pandas as pd
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from mindpandas import config as mindpandas_config

from src.dictionaries.dictionaries import Dictionaries
from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_COLUMNS, COLUMNS, DENSE_SIZE, LABEL

ROW_COUNT = 10_000_000  # a stream has no end, but MindSpore wants a length and lists its indices

STOCK_PARTS = (16, 16)  # MindPandas' own default, which the page leaves as it is

Message = tuple[bytes, bytes]
"""(key, value)."""


def produce_rows(path: Path, partition: int, bootstrap_servers: str, topic: str) -> int:
    """Sends a file's rows, each as JSON; returns how many when the broker has them all."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap_servers,
        key_serializer=lambda key: json.dumps(key).encode(),
        value_serializer=lambda value: json.dumps(value).encode(),
    )
    frame = pd.read_csv(path, sep="\t", header=None, names=COLUMNS, dtype=_text_columns())
    columns = list(COLUMNS)
    futures = [
        producer.send(topic, key=columns, value=list(row), partition=partition)
        for row in frame.itertuples(index=False, name=None)
    ]
    for future in futures:
        future.get()
    producer.close()
    return len(futures)


def _text_columns() -> dict[str, type]:
    # A hexadecimal value such as 12345678 or 1234e567 must not be taken for a number.
    return dict.fromkeys(CATEGORICAL_COLUMNS, str)


class RowFunctions:
    """What ``apply`` calls with every row of a window."""

    def __init__(self, dictionaries: Dictionaries) -> None:
        self._min = dictionaries.min_by_column
        self._max = dictionaries.max_by_column
        self._ids = dictionaries.id_by_token

    def ids(self, row: pd.Series) -> Array:
        """int[39]: the id of each field of a row without its label."""
        found = []
        for place, value in enumerate(row):
            column = COLUMNS[place + 1]
            if place < DENSE_SIZE:
                found.append(self._ids[column])
            else:
                key = f"{column}_{'' if pd.isna(value) else value}"
                found.append(self._ids.get(key, self._ids[f"OOV{column}"]))
        return np.array(found)

    def weights(self, row: pd.Series) -> Array:
        """float[39]: the weight of each field of a row without its label."""
        found = []
        for place, value in enumerate(row):
            weight = 1.0
            if place < DENSE_SIZE:
                column = COLUMNS[place + 1]
                low, high = self._min[column], self._max[column]
                missing = np.isnan(float(value)) or high == low
                weight = 0.0 if missing else (float(value) - low) / (high - low)
            found.append(weight)
        return np.array(found)

    def label(self, value: float) -> Array:
        """int[1]: the label."""
        return np.array([int(value)])


def window_features(
    messages: Sequence[Message], functions: RowFunctions, parts: tuple[int, int] = STOCK_PARTS
) -> Any:
    """A window as a MindPandas frame of id, weight and label, each cell an array."""
    before = mindpandas_config.get_partition_shape()
    mindpandas_config.set_partition_shape(parts)
    try:
        return _window_features(messages, functions)
    finally:
        mindpandas_config.set_partition_shape(before)


def _window_features(messages: Sequence[Message], functions: RowFunctions) -> Any:
    columns = [json.loads(key) for key, _ in messages][0]
    rows = [json.loads(value) for _, value in messages]
    frame = mindpandas.DataFrame(pd.DataFrame(rows, columns=columns))
    fields = frame.drop(columns=[LABEL])
    frame["id"] = fields.apply(functions.ids, axis=1)
    frame["weight"] = fields.apply(functions.weights, axis=1)
    frame[LABEL] = frame[LABEL].apply(functions.label)
    return frame[["id", "weight", LABEL]]


def stacked(window: Any) -> tuple[Array, Array, Array]:
    """A window's features as arrays, to be compared: [rows, 39], [rows, 39], [rows]."""
    ids, weights, labels = zip(*window)
    return np.stack(ids), np.stack(weights), np.concatenate(labels)


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


class RowDataset:
    """Rows for ``mindspore.dataset.GeneratorDataset``, one for each ``__getitem__``.

    Args:
        receive: Waits for the next window: an object array [rows, 3] of id, weight and label.
    """

    def __init__(self, receive: Callable[[], Array]) -> None:
        self._receive = receive
        self._rows: list[Any] = []

    def __len__(self) -> int:
        return ROW_COUNT

    def __getitem__(self, index: int) -> tuple[Array, Array, Array]:
        while not self._rows:
            self._rows = self._receive().tolist()[::-1]
        ids, weights, label = self._rows.pop()
        return (
            np.array(ids, dtype=np.int32),
            np.array(weights, dtype=np.float32),
            np.array(label, dtype=np.float32),
        )


def row_batches(source: RowDataset, batch_size: int) -> Any:
    """A MindSpore dataset of batches made of single rows."""
    from mindspore.dataset import GeneratorDataset  # the consumer does without MindSpore

    dataset = GeneratorDataset(source, ["id", "weight", "label"], shuffle=False)
    return dataset.batch(batch_size)
