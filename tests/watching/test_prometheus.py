"""Numbers for Prometheus: scraped over HTTP, read by Prometheus' own parser."""

from __future__ import annotations

import math
import socket
import time
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from src.consumer.counts import ConsumerCounts
from src.stream.position import PartitionLag
from src.watching.prometheus import (
    ConsumerNumbers,
    MetricsServerError,
    TrainerNumbers,
    serving,
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def samples(registry: CollectorRegistry) -> dict[str, float]:
    text = generate_latest(registry).decode()
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def report(auc: float | None = 0.75, lag: dict[int, int] | None = None) -> Any:
    scores = SimpleNamespace(auc=auc, log_loss=0.5, calibration=1.25)
    return SimpleNamespace(
        step=300,
        wide_loss=0.5,
        deep_loss=0.75,
        life=scores,
        window=scores,
        since_start=scores,
        oov_rate_by_column=[0.5, *[0.0] * 25],
        lag_seconds=2.5,
        lag_rows_by_partition=lag,
    )


def test_numbers_are_served_on_the_named_host_only_while_the_block_runs() -> None:
    registry, port = CollectorRegistry(), free_port()
    TrainerNumbers(registry).on_step(100, 0.06, 0.001)
    with serving(registry, port, "127.0.0.1"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"online_train_rows_total 100.0" in answer.read()
        with socket.socket() as other, pytest.raises(OSError):
            other.settimeout(5)
            other.connect(("127.0.0.2", port))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_port_0_serves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr("src.watching.prometheus.start_http_server", fail)
    with serving(CollectorRegistry(), 0, "127.0.0.1"):
        pass


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = f"^can't serve metrics at 127.0.0.1:{port}: "
        served = serving(CollectorRegistry(), port, "127.0.0.1")
        with pytest.raises(MetricsServerError, match=message), served:
            raise AssertionError("not reached")


def test_trainer_shows_steps_reports_and_checkpoints_by_their_conventional_names() -> None:
    registry = CollectorRegistry()
    numbers = TrainerNumbers(registry)
    numbers.on_step(100, 0.06, 0.001)
    numbers.on_step(100, 0.07, 0.2)
    numbers.on_report(report(lag={0: 40, 1: 2}))
    numbers.on_saved({0: 1000, 1: 990})
    found = samples(registry)
    wanted = {
        "online_train_rows_total": 200,
        "online_train_batches_total": 2,
        "online_train_step_duration_seconds_count": 2,
        "online_train_step_duration_seconds_sum": pytest.approx(0.13),
        "online_train_batch_wait_seconds_bucket 0.005": 1,
        "online_train_step": 300,
        "online_train_loss wide": 0.5,
        "online_train_loss deep": 0.75,
        "online_train_auc window": 0.75,
        "online_train_log_loss life": 0.5,
        "online_train_calibration_ratio since_start": 1.25,
        "online_train_oov_ratio C1": 0.5,
        "online_train_oov_ratio C26": 0,
        "online_train_lag_rows 0": 40,
        "online_train_lag_rows 1": 2,
        "online_train_lag_seconds": 2.5,
        "online_train_checkpoint_offset 1": 990,
        "online_train_checkpoint_timestamp_seconds": pytest.approx(time.time(), abs=60),
    }
    assert {name: found.get(name) for name in wanted} == wanted


def test_what_is_not_known_yet_is_absent_and_not_0() -> None:
    registry = CollectorRegistry()
    numbers = TrainerNumbers(registry)
    unknown = ("step", "lag_seconds", "checkpoint_timestamp_seconds", "checkpoint_offset 0")
    assert not {f"online_train_{name}" for name in unknown} & samples(registry).keys()
    numbers.on_report(report())
    numbers.on_saved({0: 7})
    assert {f"online_train_{name}" for name in unknown} <= samples(registry).keys()


def test_what_a_report_lacks_is_nan_or_left_out() -> None:
    registry = CollectorRegistry()
    TrainerNumbers(registry).on_report(report(auc=None, lag=None))
    found = samples(registry)
    assert math.isnan(found["online_train_auc window"])
    assert "online_train_lag_rows 0" not in found


def test_consumer_shows_counts_lag_and_channel_and_updates_once_a_second() -> None:
    registry, counts, now, updates = CollectorRegistry(), ConsumerCounts(), [0.0], [0]

    def depth() -> list[int] | None:
        updates[0] += 1
        return [3, 4]

    lag = {0: PartitionLag(20, 1.5), 1: PartitionLag(0, 0.0)}
    numbers = ConsumerNumbers(registry, counts, lambda: lag, depth, lambda: now[0])
    for now[0] in (0.0, 0.5, 0.99, 1.0):
        counts.windows, counts.rows, counts.bad_rows = counts.windows + 1, counts.rows + 10, 1
        numbers.update()
    assert updates[0] == 2
    found = samples(registry)
    wanted = {
        "online_consumer_windows_total": 4,
        "online_consumer_rows_total": 40,
        "online_consumer_bad_rows_total": 1,
        "online_consumer_lag_rows 0": 20,
        "online_consumer_lag_seconds 0": 1.5,
        "online_consumer_lag_rows 1": 0,
        "online_consumer_channel_windows 1": 4,
    }
    assert {name: found.get(name) for name in wanted} == wanted


def test_a_channel_of_unknown_depth_shows_none() -> None:
    registry = CollectorRegistry()
    ConsumerNumbers(registry, ConsumerCounts(), dict, lambda: None, lambda: 5.0).update()
    assert not [name for name in samples(registry) if "channel" in name]
