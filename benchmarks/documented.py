"""The documented way, stage by stage: plain code that does what the example's page describes.

A row is a JSON list on the wire, with the JSON list of column names as its key. A window is a
MindPandas frame whose rows a function turns into features one by one. MindSpore gets row after row
from ``__getitem__`` and makes batches of them with ``.batch()``. Nothing here is clever, and nothing
is slow on purpose: where the page leaves a choice the faster one was taken.

The features are those of `src.features`, so that outputs can be compared; the training step is in
`benchmarks.documented_step`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import mindpandas
import numpy as np
import pandas as pd
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from src.arrays import Array
from src.criteo import CATEGORICAL_COLUMNS, COLUMNS, DENSE_COLUMNS, LABEL
from src.dictionaries import Dictionaries

ROW_COUNT = 2**31 - 1  # a stream has no end, but MindSpore wants a length

Features = tuple[Array, Array, Array]
"""(id int32[39], weight float32[39], label float32[1]) of one row."""
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


class RowFeatures:
    """The features of one row, for ``DataFrame.apply(…, axis=1)``."""

    def __init__(self, dictionaries: Dictionaries) -> None:
        self._min = dictionaries.min_by_column
        self._max = dictionaries.max_by_column
        self._ids = dictionaries.id_by_token

    def __call__(self, row: pd.Series) -> Features:
        """Column after column: its id and its weight."""
        ids, weights = [], []
        for column in DENSE_COLUMNS:
            ids.append(self._ids[column])
            weights.append(self._scaled(column, row[column]))
        for column in CATEGORICAL_COLUMNS:
            ids.append(self._looked_up(column, row[column]))
            weights.append(1.0)
        label = np.array([row[LABEL]], dtype=np.float32)
        return np.array(ids, dtype=np.int32), np.array(weights, dtype=np.float32), label

    def _scaled(self, column: str, value: float) -> float:
        low, high = self._min[column], self._max[column]
        if math.isnan(value) or high == low:
            return 0.0
        return (value - low) / (high - low)

    def _looked_up(self, column: str, value: Optional[str]) -> int:
        return self._ids.get(f"{column}_{value or ''}", self._ids[f"OOV{column}"])


def window_features(messages: Sequence[Message], function: RowFeatures) -> list[Features]:
    """A window's features, row by row."""
    columns = json.loads(messages[0][0])
    rows = [json.loads(value) for _, value in messages]
    frame = mindpandas.DataFrame(pd.DataFrame(rows, columns=columns))
    return list(frame.apply(function, axis=1).to_pandas())


def stacked(window: Sequence[Features]) -> tuple[Array, Array, Array]:
    """A window's features as arrays, to be compared: [rows, 39], [rows, 39], [rows]."""
    ids, weights, labels = zip(*window)
    return np.stack(ids), np.stack(weights), np.concatenate(labels)


def consume_windows(
    bootstrap_servers: str, topic: str, window_size: int, stopped: Callable[[], bool]
) -> Iterator[list[Message]]:
    """The messages of a topic from its beginning, as windows of a fixed size."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=200,
    )
    partitions = sorted(consumer.partitions_for_topic(topic))
    consumer.assign([TopicPartition(topic, number) for number in partitions])
    window: list[Message] = []
    try:
        while not stopped():
            for message in consumer:
                window.append((message.key, message.value))
                if len(window) == window_size:
                    yield window
                    window = []
                if stopped():
                    break
    finally:
        consumer.close()


class RowDataset:
    """Rows for ``mindspore.dataset.GeneratorDataset``, one for each ``__getitem__``.

    Args:
        receive: Waits for the next window.
    """

    def __init__(self, receive: Callable[[], Sequence[Features]]) -> None:
        self._receive = receive
        self._window: Sequence[Features] = ()
        self._place = 0

    def __len__(self) -> int:
        return ROW_COUNT

    def __getitem__(self, index: int) -> Features:
        if self._place == len(self._window):
            self._window, self._place = self._receive(), 0
        row = self._window[self._place]
        self._place += 1
        return row


def row_batches(source: RowDataset, batch_size: int) -> Any:
    """A MindSpore dataset of batches made of single rows."""
    from mindspore.dataset import GeneratorDataset  # the consumer does without MindSpore

    dataset = GeneratorDataset(source, ["id", "weight", "label"], shuffle=False)
    return dataset.batch(batch_size)
