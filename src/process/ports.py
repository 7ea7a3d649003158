"""Which TCP ports have a listener here, and which addresses belong to this machine."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

LISTENING = "0A"
CHOICE = range(10_000, 20_000)  # used neither by the engine nor for outgoing connections


def listening_ports() -> set[int]:
    """The ports on which some process of this machine listens, found without connecting.

    MindSpore's scheduler takes a silent connection for a worker that was lost.
    """
    ports: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local_address, _, state = line.split()[:4]
                if state == LISTENING:
                    ports.add(int(local_address.rsplit(":", 1)[1], 16))
    return ports


def is_listening(port: int) -> bool:
    """Whether some process of this machine listens on a port."""
    return port in listening_ports()


def free_port() -> int:
    """A port that no process uses.

    Raises:
        OSError: There is none.
    """
    for port in random.SystemRandom().sample(CHOICE, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("", port))
                return port
    raise OSError(f"no free port between {CHOICE.start} and {CHOICE.stop}")


def is_local(address: str) -> bool:
    """Whether an IPv4 address is one of this machine's."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
