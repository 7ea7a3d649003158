"""Ports in use and addresses of this machine, with real sockets."""

from __future__ import annotations

import contextlib
import socket

import pytest

from src.process import ports
from src.process.ports import free_port, is_listening, is_local, listening_ports


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_port_is_listened_on_from_listen_until_close(
    family: socket.AddressFamily, address: str
) -> None:
    with socket.socket(family) as server:
        server.bind((address, 0))
        port = server.getsockname()[1]
        assert not is_listening(port), "a bound port takes no connection yet"
        server.listen()
        assert is_listening(port)
        assert port in listening_ports()
    assert not is_listening(port)


def test_looking_at_a_port_does_not_connect_to_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert is_listening(server.getsockname()[1])
        server.settimeout(0.1)
        with pytest.raises(socket.timeout):
            server.accept()


def test_the_far_end_of_a_connection_is_no_listener() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as client:
        assert not is_listening(client.getsockname()[1])


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    assert port in ports.CHOICE
    with socket.create_server(("127.0.0.1", port)):
        assert is_listening(port)


def test_ports_in_use_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = range(15_000, 15_100)
    monkeypatch.setattr(ports, "CHOICE", choice)
    with contextlib.ExitStack() as stack:
        servers = {}
        for port in choice:
            with contextlib.suppress(OSError):  # somebody else's already
                servers[port] = stack.enter_context(socket.create_server(("", port)))
        with pytest.raises(OSError, match="no free port between 15000 and 15100"):
            free_port()
        released = sorted(servers)[len(servers) // 2]
        servers[released].close()
        assert free_port() == released


def test_only_this_machines_addresses_are_local() -> None:
    assert is_local("127.0.0.1")
    assert is_local("0.0.0.0")
    assert not is_local("203.0.113.77")  # RFC 5737: belongs to nobody
