from __future__ import annotations

import pytest

from src.cluster.broker_list import ClusterConfigError, broker_list
from src.cluster.settings import ClientSettings


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("localhost:9092", ("localhost:9092",)),
        (" a:1 ,\tb:2\n", ("a:1", "b:2")),
        ("[::1]:9092,10.0.0.1:9093", ("[::1]:9092", "10.0.0.1:9093")),
        ("[fe80::1%eth0]:9092", ("[fe80::1%eth0]:9092",)),
        ("Kafka-1.Example.:09092", ("kafka-1.example.:9092",)),
        ("my_broker:9092", ("my_broker:9092",)),
    ],
)
def test_a_list_is_read_with_blanks_and_ipv6(text: str, servers: tuple[str, ...]) -> None:
    assert broker_list(text) == servers


@pytest.mark.parametrize(
    ("text", "at_fault"),
    [
        ("", "no broker is named"),
        ("  ", "no broker is named"),
        (",", "remove the extra comma"),
        ("a:1,", "remove the extra comma"),
        ("a:1,,b:2", "remove the extra comma"),
        ("kafka://a:1", "'kafka://a:1' .* has a scheme"),
        ("a:1,PLAINTEXT://b:2", "'PLAINTEXT://b:2' .* has a scheme"),
        ("a:1;b:2", "'a:1;b:2' .* separate them by commas"),
        ("a:1 b:2", "'a:1 b:2' .* separate them by commas"),
        ("a", "'a' .* has no port"),
        ("a:1,b:", "'b:' .* has no port"),
        ("a:port", "'a:port' .* has no port from 1 to 65535"),
        ("a:0", "has no port from"),
        ("a:65536", "has no port from"),
        ("a:-1", "has no port from"),
        ("a:\u0661", "has no port from"),
        (":9092", "has no host"),
        ("::1:9092", "stands in brackets"),
        ("[::1]", "has no port"),
        ("[::1]9092", "is no host:port|names no host"),
        ("[nonsense]:1", "no IPv6 address in its brackets"),
        ("256.1.1.1:1", "names no host"),
        ("1.2.3:1", "names no host"),
        ("a/b:1", "names no host"),
        ("user@a:1", "names no host"),
        ("a:1,b:2,A:1", "a:1 stands twice"),
    ],
)
def test_the_piece_at_fault_is_named(text: str, at_fault: str) -> None:
    with pytest.raises(ClusterConfigError, match=at_fault) as caught:
        broker_list(text)
    assert "\n" not in str(caught.value)


def test_a_list_stands_for_settings_without_security() -> None:
    settings = ClientSettings.of("a:1,[::1]:2")
    assert str(settings) == "a:1,[::1]:2"
    assert settings.hosts() == [("a", 1), ("::1", 2)]
    assert settings.client_options()["security_protocol"] == "PLAINTEXT"
    assert ClientSettings.of(settings) is settings
