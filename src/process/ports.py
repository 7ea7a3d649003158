"""Which TCP ports have a listener here, and which addresses belong to this machine."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

LISTENING = "0A"
MAX_COMMAND = 60  # characters of a command line that are shown
CHOICE = range(10_000, 20_000)  # used neither by the engine nor for outgoing connections


def listening_ports() -> set[int]:
    """The ports on which some process of this machine listens, found without connecting.

    MindSpore's scheduler takes a silent connection for a worker that was lost.
    """
    return {port for port, _ in _listeners()}


def _listeners() -> Iterator[tuple[int, str]]:
    """Each port with a listener, and the number (inode) of its socket."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING:
                    yield int(fields[1].rsplit(":", 1)[1], 16), fields[9]


def listener_of(port: int) -> str | None:
    """The command line and number of the process that listens on a port.

    Returns:
        None if nobody listens, or a process of another user, whose files can't be seen.
    """
    sockets = {f"socket:[{inode}]" for listening, inode in _listeners() if listening == port}
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        with contextlib.suppress(OSError):
            if any(os.readlink(file) in sockets for file in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().decode(errors="replace")
                name = " ".join(command.split("\0")).strip()
                return f"{name[:MAX_COMMAND]} (process {process.name})"
    return None


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
