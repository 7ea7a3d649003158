"""The parts of a probe's time add up to it, and each has its own begin and end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.freshness.__main__ import misses
from benchmarks.freshness.events import EventFile, Events, last_offsets
from benchmarks.freshness.parts import median_parts
from examples.live.freshness import Freshness
from examples.live.probes import Probe
from src.publishing.version_format import FULL, Manifest
from src.stream.position import Position


def manifest(offset: int, published_ms: int) -> Manifest:
    return Manifest(
        name="1-00000000",
        version=1,
        kind=FULL,
        base="1-00000000",
        previous=None,
        topic="topic",
        position=Position({0: offset}),
        trained_until_ms=0,
        published_ms=published_ms,
        progressive={},
        model={},
        dictionaries="0" * 16,
    )


def test_the_last_offset_of_each_partition_is_found() -> None:
    window = np.zeros(4, dtype=[("partition", np.int32), ("offset", np.int64)])
    window["partition"], window["offset"] = [1, 0, 1, 0], [7, 3, 8, 4]
    assert last_offsets(window) == {0: 4, 1: 8}


def test_an_offset_is_reached_by_the_first_event_that_covers_it(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "events")
    for at, offset in ((1.0, 10), (2.0, 20), (3.0, 30)):
        file.add(at, {0: offset})
    events = Events(tmp_path / "events")
    assert [events.reached(0, offset) for offset in (10, 11, 20, 31)] == [1.0, 2.0, 2.0, None]
    assert events.reached(1, 0) is None


def test_the_parts_add_up_to_the_time_of_the_probe(tmp_path: Path) -> None:
    for name, at in (("sent", 10.5), ("received", 10.6), ("begun", 10.8), ("trained", 10.81)):
        EventFile(tmp_path / name).add(at, {0: 9})
    probe = Probe("a", is_click=True, sent_at=10.0, partition=0, offset=9, learnt_at=11.5)
    versions = [manifest(9, 10_900), manifest(10, 11_400)]
    parts = median_parts([probe], tmp_path, versions)
    assert parts == pytest.approx(
        {
            "window": 0.5,
            "channel": 0.1,
            "batch": 0.2,
            "step": 0.01,
            "publish": 0.59,
            "answer": 0.1,
        }
    )
    assert sum(parts.values()) == pytest.approx(1.5)


def test_a_slow_or_missing_answer_misses_the_target() -> None:
    good = {"p50_s": 1.0, "p95_s": 2.0, "p99_s": 2.9, "max_s": 9.0}
    assert misses(Freshness(5, 0, good)) == []
    assert len(misses(Freshness(5, 0, {**good, "p50_s": 1.6, "p99_s": 3.1}))) == 2
    assert misses(Freshness(5, 1, good)) == ["1 of 5 probes not seen"]
    assert misses(Freshness(0, 0, {})) == ["0 of 0 probes not seen"]
