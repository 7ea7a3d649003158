"""Rows that are compressed, by the producer or by the topic, arrive as they were."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from examples.sample.rows import write_sample
from examples.services.kafka_service import KafkaService
from src.cluster.topic import ensure_topic
from src.stream.position import Position
from src.stream.produce import COMPRESSION_TYPES, ProduceOptions, send_file
from src.stream.row_source import RowSource

ROWS = 300


@pytest.mark.parametrize("by_topic", [False, True], ids=["producer", "topic"])
@pytest.mark.parametrize("kind", COMPRESSION_TYPES[1:])
def test_compressed_rows_arrive(
    kafka_service: KafkaService, tmp_path: Path, kind: str, by_topic: bool
) -> None:
    address, topic = kafka_service.bootstrap_servers, f"compressed_{kind}_{by_topic}"
    ensure_topic(address, topic, 1, 1, configs={"compression.type": kind} if by_topic else {})
    rows = tmp_path / "rows.tsv"
    write_sample([rows], ROWS)
    options = ProduceOptions(address, topic, compression_type="none" if by_topic else kind)
    assert send_file(rows, 0, options, lambda: False) == ROWS
    with RowSource(address, topic, topic) as source:
        source.seek(Position({0: 0}))
        give_up_at = time.monotonic() + 30
        while source.waiting() < ROWS and time.monotonic() < give_up_at:
            source.poll(0.1)
        values = [value + b"\n" for value in source.held(ROWS)[0].values if value is not None]
    assert b"".join(values) == rows.read_bytes()
    size = sum(path.stat().st_size for path in log_files(kafka_service, topic))
    assert size < rows.stat().st_size  # uncompressed, keys and headers would come on top


def log_files(service: KafkaService, topic: str) -> list[Path]:
    return list((service.data_dir / "kafka-data").glob(f"{topic}-0/*.log"))
