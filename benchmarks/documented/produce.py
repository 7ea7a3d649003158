"""The documented producer: a row is a JSON list, its key the JSON list of the column names."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from kafka import KafkaProducer

from src.rows.criteo import CATEGORICAL_COLUMNS, COLUMNS


def produce_rows(path: Path, partition: int, bootstrap_servers: str, topic: str) -> int:
    """Sends a file's rows as JSON; returns their number once the broker has acknowledged all."""
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
    # A hexadecimal value such as 12345678 or 1234e567 must not be read as a number.
    return dict.fromkeys(CATEGORICAL_COLUMNS, str)
