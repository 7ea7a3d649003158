"""Numbers for Prometheus: scraped over HTTP, read by Prometheus' own parser."""

from __future__ import annotations

import errno
import math
import os
import socket
import subprocess
import sys
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


def reason_at(host: str, port: int) -> str:
    with pytest.raises(MetricsServerError) as error, serving(CollectorRegistry(), port, host):
        raise AssertionError("not reached")
    beginning = f"can't serve metrics at {host}:{port}: "
    assert str(error.value).startswith(beginning) and "\n" not in str(error.value)
    return str(error.value)[len(beginning) :]


def test_a_port_that_is_taken_is_one_line_that_names_its_user() -> None:
    program = "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
    program += "print(s.getsockname()[1], flush=True); time.sleep(60)  # consumer.py"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        port = int(user.stdout.readline())
        reason = reason_at("127.0.0.1", port)
        user.kill()
    assert reason.startswith(f"the port is used by {sys.executable} -c import socket")
    assert f"(process {user.pid})" in reason
    assert reason.endswith("give this script another --metrics_port")


def test_consumer_and_trainer_of_one_file_need_two_ports() -> None:
    port = free_port()
    with serving(CollectorRegistry(), port, "127.0.0.1"):
        assert f"(process {os.getpid()})" in reason_at("127.0.0.1", port)
        assert "used by" in reason_at("0.0.0.0", port)


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("192.0.2.1", 9100, "metrics_host is no address of this machine"),
        ("no such host", 9100, "metrics_host is not the name of a host"),
        ("127.0.0.1", 65536, "bind(): port must be 0-65535."),
    ],
)
def test_an_address_that_can_not_be_served_is_one_line(host: str, port: int, reason: str) -> None:
    assert reason_at(host, port) == reason


def test_a_port_of_root_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # these tests may run as root
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("src.watching.prometheus.start_http_server", refuse)
    assert (
        reason_at("127.0.0.1", 80) == "ports below 1024 are root's; choose another --metrics_port"
    )


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


def test_what_a_report_lacks_is_absent_also_if_it_was_known_before() -> None:
    registry = CollectorRegistry()
    numbers = TrainerNumbers(registry)
    for _ in range(2):
        numbers.on_report(report(auc=None, lag=None))
        found = samples(registry)
        absent = ("auc window", "auc life", "auc since_start", "lag_rows 0")
        assert not {f"online_train_{name}" for name in absent} & found.keys()
        assert found["online_train_log_loss window"] == 0.5
        numbers.on_report(report(auc=0.75, lag={0: 7}))
        assert samples(registry)["online_train_auc life"] == 0.75
        assert samples(registry)["online_train_lag_rows 0"] == 7


def test_no_number_is_nan() -> None:
    registry = CollectorRegistry()
    diverged = report(auc=float("nan"))
    diverged.deep_loss = float("inf")
    TrainerNumbers(registry).on_report(diverged)
    found = samples(registry)
    assert all(math.isfinite(value) for value in found.values())
    assert "online_train_loss wide" in found and "online_train_loss deep" not in found


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


def test_an_age_that_is_not_known_is_absent_also_if_it_was_known_before() -> None:
    registry, now = CollectorRegistry(), [0.0]
    lag = {0: PartitionLag(20, 1.5), 1: PartitionLag(3, None)}
    consumer = ConsumerNumbers(registry, ConsumerCounts(), lambda: lag, lambda: [], lambda: now[0])
    consumer.update()
    assert "online_consumer_lag_seconds 0" in samples(registry)
    assert "online_consumer_lag_seconds 1" not in samples(registry)
    lag[0], now[0] = PartitionLag(20, None), 2.0
    consumer.update()
    assert "online_consumer_lag_seconds 0" not in samples(registry)
    assert samples(registry)["online_consumer_lag_rows 0"] == 20

    trainer = TrainerNumbers(registry)
    for age in (None, 2.5, None, 3.5):
        trainer.on_report(SimpleNamespace(**{**vars(report()), "lag_seconds": age}))
        assert samples(registry).get("online_train_lag_seconds") == age
