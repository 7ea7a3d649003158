"""Look-ups of host names that end in time, whatever the name server does.

kafka-python looks names up in its only thread, and the system's own time-out can be minutes. A stop
would wait as long.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

from kafka.net.inet import KafkaNetSocket

logger = logging.getLogger(__name__)

LOOKUP_SECONDS = 2.0
DIRECT_URL = "bounded-lookups://"

# What socket.getaddrinfo returns.
Address = tuple[Any, ...]


class LookupFailed(OSError):
    """A name has no address, or no name server has answered in time; the message says which."""


class _Lookup:
    """A look-up in a thread of its own, which nobody has to wait for."""

    def __init__(self, host: str, port: int) -> None:
        self.addresses: list[Address] = []
        self.error: Exception | None = None
        self.done = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(host, port), name=f"lookup-{host}", daemon=True
        )
        thread.start()

    def _run(self, host: str, port: int) -> None:
        try:
            self.addresses = list(
                socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            self.error = error
        finally:
            self.done.set()


class _Lookups:
    """The look-ups that run: at most one for each name, however often it is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], _Lookup] = {}

    def addresses(self, host: str, port: int) -> list[Address]:
        key = (host, port)
        with self._lock:
            lookup = self._running.get(key)
            is_new = lookup is None
            if lookup is None:
                lookup = self._running[key] = _Lookup(host, port)
        # One that was not answered in time before is not waited for again.
        if not lookup.done.wait(LOOKUP_SECONDS if is_new else 0.0):
            raise LookupFailed(f"no name server answers for {host}")
        with self._lock:
            self._running.pop(key, None)
        if lookup.error is not None:
            reason = getattr(lookup.error, "strerror", None) or str(lookup.error)
            raise LookupFailed(f"the name {host} can't be looked up: {reason}")
        return lookup.addresses


_lookups = _Lookups()


def addresses(host: str, port: int) -> list[Address]:
    """The addresses of a host, as ``socket.getaddrinfo`` returns them.

    Args:
        host: A name, or an IPv4 or IPv6 address without brackets.
        port: The port.

    Raises:
        LookupFailed: There is none, or no answer within ``LOOKUP_SECONDS``.
    """
    return _lookups.addresses(host, port)


class BoundedLookups(KafkaNetSocket):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's sockets with our look-ups; ``proxy_url=DIRECT_URL`` selects them.

    kafka-python chooses the class of its sockets by the scheme of that URL. There is no proxy.
    """

    SCHEMES = (DIRECT_URL.split(":")[0],)

    def dns_lookup(self, host: str, port: int, raise_error: bool = False) -> list[Address]:
        """As kafka-python's own, which returns nothing where there is no address."""
        try:
            return addresses(host, port)
        except LookupFailed as error:
            logger.debug("%s", error)
            return []
