"""A broker list ``host:port,...``, as flags and files name it."""

from __future__ import annotations

import ipaddress
import re

from src.config import ConfigError

HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
MAX_PORT = 65_535


class ClusterConfigError(ConfigError):
    """A broker list or a client.properties file can't be used; one line says why."""


def broker_list(text: str, where: str = "bootstrap_servers") -> tuple[str, ...]:
    """The brokers of a list ``host:port,...``; blanks around them are allowed.

    Args:
        text: The list.
        where: What the error's line names it.

    Raises:
        ClusterConfigError: The list is empty, or a piece of it is no host:port or stands twice.
    """
    if not text.strip():
        raise ClusterConfigError(f"{where}: no broker is named; expected host:port,...")
    servers: list[str] = []
    for piece in text.split(","):
        server = _server(piece.strip(), text, where)
        if server in servers:
            raise ClusterConfigError(f"{where}: {server} stands twice in {text!r}")
        servers.append(server)
    return tuple(servers)


def _server(piece: str, text: str, where: str) -> str:
    """A broker in its plain form."""

    def refused(why: str) -> ClusterConfigError:
        return ClusterConfigError(f"{where}: {piece!r} in {text!r} {why}")

    if not piece:
        raise ClusterConfigError(f"{where}: {text!r} holds an empty piece; remove the extra comma")
    if "://" in piece:
        raise refused("has a scheme: write host:port, and the protocol into --kafka_config")
    if ";" in piece or len(piece.split()) > 1:
        raise refused("holds several brokers: separate them by commas")
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", piece)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
        if not _is_ipv6(host):
            raise refused("has no IPv6 address in its brackets")
    elif piece.count(":") > 1:
        raise refused("is no host:port; an IPv6 address stands in brackets, as in [::1]:9092")
    else:
        host, _, port = piece.partition(":")
        if not host:
            raise refused("has no host")
        if not HOST_NAME.fullmatch(host) or _is_wrong_ipv4(host):
            raise refused("names no host")
    if not port:
        raise refused("has no port; brokers mostly listen on 9092")
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= MAX_PORT):
        raise refused(f"has no port from 1 to {MAX_PORT}")
    return f"[{host}]:{int(port)}" if bracketed else f"{host.lower()}:{int(port)}"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_wrong_ipv4(host: str) -> bool:
    """Whether a host of digits and dots is no IPv4 address: no name looks like that."""
    if not re.fullmatch(r"[\d.]+", host):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False
