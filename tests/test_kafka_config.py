"""--kafka_config in every script that talks to Kafka: what can't be used is wrong usage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import consumer
import kafka_client
import online_train
import producer
from examples import dead_letters, quickstart
from src.ranks import launch

LAUNCH = ("network", "2", "127.0.0.1", "8118", "127.0.0.1", "--")
SCRIPTS: dict[str, tuple[Callable[[Sequence[str]], int], tuple[str, ...]]] = {
    "kafka_client": (kafka_client.main, ()),
    "producer": (producer.main, ()),
    "consumer": (consumer.main, ()),
    "online_train": (online_train.main, ()),
    "dead_letters": (dead_letters.main, ("count",)),
    "quickstart": (quickstart.main, ()),
    "run_dist_online_train.sh": (launch.main, LAUNCH),
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--kafka_config={path}", "client.properties, line 2: sasl.passwort: not known; did you"),
        ("--kafka_config={path}.absent", "client.properties.absent: No such file"),
        ("--bootstrap_servers=kafka://a:1", "'kafka://a:1' has a scheme"),
    ],
)
def test_it_is_refused_on_one_line(
    script: str,
    flag: str,
    reason: str,
    tmp_path: Path,
    own_logging: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "client.properties"
    path.write_text("security.protocol=SASL_SSL\nsasl.passwort=secret\n")
    main, before = SCRIPTS[script]
    assert main([*before, flag.format(path=path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason.split("'")[-1] in line
    assert "secret" not in line
