"""Which TCP ports are listened on here, and which addresses are this machine's."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

LISTENING = "0A"
CHOICE = range(20_000, 30_000)  # out of the reach of the engine and of outgoing connections


def is_listening(port: int) -> bool:
    """Whether some process of this machine listens on a port; it is not connected to.

    MindSpore's scheduler takes a connection that says nothing for a worker that has gone.
    """
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                if state == LISTENING and int(local.rsplit(":", 1)[1], 16) == port:
                    return True
    return False


def free_port() -> int:
    """A port on which nobody listens.

    Raises:
        OSError: There is none.
    """
    for port in random.SystemRandom().sample(CHOICE, 100):
        if not is_listening(port):
            return port
    raise OSError("no free port")


def is_local(address: str) -> bool:
    """Whether an IPv4 address is one of this machine's."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
