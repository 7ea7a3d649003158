"""A name server that does not answer holds nobody up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer
from kafka.errors import KafkaError

from src.cluster import names
from src.cluster.access import AccessError, Needs, check_access
from src.cluster.names import BoundedLookups, LookupFailed, addresses
from src.cluster.settings import ClientSettings

SILENT = "silent.example"


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names asked for; the one that is silent is answered at the end of the test."""
    asked: list[str] = []
    end = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: str, *rest: Any) -> Any:
        asked.append(host)
        if host == SILENT:
            end.wait(30)
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return real(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 0.2)
    yield asked
    end.set()


def test_a_silent_server_is_waited_for_once(silent_server: list[str]) -> None:
    for longest in (1.0, 0.15):
        began = time.monotonic()
        with pytest.raises(LookupFailed, match=f"no name server answers for {SILENT}"):
            addresses(SILENT, 1)
        assert time.monotonic() - began < longest
    assert silent_server.count(SILENT) == 1
    assert BoundedLookups().dns_lookup(SILENT, 1) == []


def test_addresses_and_unknown_names(silent_server: list[str]) -> None:
    assert addresses("127.0.0.1", 7)[0][4] == ("127.0.0.1", 7)
    assert addresses("::1", 7)[0][4][:2] == ("::1", 7)
    with pytest.raises(LookupFailed, match="the name no such name can't be looked up"):
        addresses("no such name", 7)


def test_the_check_at_the_start_gives_up_in_time_and_says_why(silent_server: list[str]) -> None:
    began = time.monotonic()
    with pytest.raises(AccessError, match=f"no name server answers for {SILENT}"):
        check_access(ClientSettings.of(f"{SILENT}:9092"), Needs(), 0.5)
    assert time.monotonic() - began < 3


def test_kafka_python_itself_uses_these_lookups(silent_server: list[str]) -> None:
    options = ClientSettings.of(f"{SILENT}:9092").consumer_options()
    began = time.monotonic()
    with pytest.raises(KafkaError):
        KafkaConsumer(**options, bootstrap_timeout_ms=500)
    assert time.monotonic() - began < 5
    assert silent_server == [SILENT]
