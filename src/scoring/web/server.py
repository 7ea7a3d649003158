"""Runs the server until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Generator

import uvicorn

from src.process.stop import StopFlag
from src.scoring.follower import Follower
from src.scoring.page.pages import pages
from src.scoring.web.app import ScoringApp
from src.scoring.web.connection import BoundedConnection
from src.scoring.web.settings import KEEP_ALIVE_SECONDS, SHUTDOWN_SECONDS, ServeSettings

logger = logging.getLogger(__name__)

BACKLOG = 512
SWITCH_SECONDS = 1e-4
"""How long a thread may keep Python's lock while others wait for it. By default that is 5 ms. A
request gives the lock away some hundred times, and may wait so long each time while a version is
loaded."""


class ServeError(RuntimeError):
    """The server can't start; one line says why."""


class _Server(uvicorn.Server):
    """uvicorn, stopped by our flag; its own signal handlers would end the process by the signal."""

    def __init__(self, config: uvicorn.Config, flag: StopFlag) -> None:
        super().__init__(config)
        self._flag = flag

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._flag.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Closing a socket resets the connections that wait to be accepted. So they are accepted,
        # and nothing comes between the last of them and the end of listening.
        waiting = [connection for listener in sockets or [] for connection in _accepted(listener)]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.BaseEventLoop)
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)
        await super().shutdown(sockets)

    def _protocol(self) -> BoundedConnection:
        return BoundedConnection(self.config, self.server_state, self.lifespan.state)


def _accepted(listener: socket.socket) -> Generator[socket.socket, None, None]:
    """The connections that wait to be accepted."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # none waits, or it has gone again
            return
        connection.setblocking(False)
        yield connection


def serve(settings: ServeSettings, flag: StopFlag) -> None:
    """Serves until the flag is set; requests that run then are answered.

    Raises:
        ServeError: The port is taken, or the host is no address of this machine.
    """
    follower = Follower(settings.directory)
    if settings.take_over:
        follower.look()  # from its first connection on it must have a version to answer with
    with contextlib.closing(_listening(settings)) as listener:
        app = ScoringApp(settings, follower, pages())
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # one line per client's fault
        config = uvicorn.Config(
            app,
            http=BoundedConnection,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        sys.setswitchinterval(SWITCH_SECONDS)
        following = threading.Thread(target=follower.run, args=(flag,), name="follower")
        following.start()
        host, port = listener.getsockname()[:2]
        logger.info(
            "model %s of %s at http://%s:%d/",
            settings.model_name,
            settings.directory,
            f"[{host}]" if ":" in host else host,
            port,
        )
        try:
            asyncio.run(_Server(config, flag).serve([listener]))
        finally:
            flag.set("the server has ended")
            following.join()
            app.close()


def _listening(settings: ServeSettings) -> socket.socket:
    """A socket that listens; with ``take_over`` beside another server's on the same port.

    Raises:
        ServeError: The port is taken, or the host is no address of this machine.
    """
    host, port = settings.host, settings.port
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.take_over:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        # Set after binding, it lets another server in later, and is no leave to take a taken port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        raise ServeError(f"can't listen on {host}:{port}: {error}") from None
    return listener
