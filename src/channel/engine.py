"""Joining and leaving the yr engine, and its errors as one exception of the channel's.

The engine's client is thread-safe: it uses futures and locks throughout.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError

import mindpandas  # noqa: F401  (puts yr on the module path: it has to come first)
import yr
from mindpandas.channel import BaseChannel
from yr.exception import YRError

from src.channel.engine_repairs import apply_repairs, engine_lost, leaving

logger = logging.getLogger(__name__)

STORE_PAUSE_SECONDS = 0.2
STORE_START_SECONDS = 15.0
# A store call that is under way when the engine dies takes 70 s to fail. The client's native code
# holds the interpreter meanwhile, so the whole process stands still.
FREEZE_SECONDS = 75.0
LEAVE_SECONDS = 20.0


class ChannelError(RuntimeError):
    """The channel or its engine is gone or was never there. The message is one line."""


class ChannelInUse(ChannelError):  # noqa: N818
    """Another, living sender has this channel. Waiting does not help."""


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or the last line of a traceback from the actor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1 if lines[0].startswith("Traceback") else 0][:300]


@contextlib.contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turns whatever the engine's client raises into a ChannelError.

    Args:
        doing: What was being done; the error's text begins with it.
    """
    try:
        yield
    except ChannelError:
        raise
    except (RuntimeError, TimeoutError, FutureTimeoutError, YRError) as error:
        raise ChannelError(f"{doing}: {one_line(error)}") from error


def check_name(what: str, name: str) -> None:
    """Refuses a namespace or channel name that the engine would misread.

    Raises:
        ValueError: It is empty or contains '-' or '/'.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what} has to be a non-empty string, got {name!r}")
    if "-" in name or "/" in name:
        raise ValueError(f"{what} must not contain '-' or '/', got {name!r}")


def join_engine(address: str) -> None:
    """Joins the engine; joins it again if this process has lost it.

    Args:
        address: IPv4 address of the engine's master.

    Raises:
        ChannelError: The engine can't be reached.
    """
    apply_repairs()
    if engine_lost.is_set():
        finalize()
        engine_lost.clear()
    with engine_errors(f"the engine at {address} can't be reached"):
        BaseChannel(address=address)


def await_store() -> None:
    """Waits for the engine's store, which is ready some seconds later than the engine.

    Raises:
        ChannelError: It is not ready in time, or fails.
    """
    deadline = time.monotonic() + STORE_START_SECONDS
    while True:
        try:
            yr.put(0)
            return
        except RuntimeError as error:
            if "not ready" not in str(error) or time.monotonic() > deadline:
                raise ChannelError(f"the engine's store is not ready: {one_line(error)}") from error
        time.sleep(STORE_PAUSE_SECONDS)


def engine_is_lost() -> bool:
    """Whether this process has lost the engine and not joined it again since."""
    return engine_lost.is_set()


def finalize() -> None:
    """Leaves the engine, if this process ever joined it. Never raises; idempotent.

    The engine's client waits for its own threads without a limit. So it does so in a thread that
    need not end, and not once more at the exit.
    """
    if not yr.is_initialized():
        return
    leaving()
    atexit.unregister(yr.finalize)
    thread = threading.Thread(target=_finalize, name="leaving-the-engine", daemon=True)
    thread.start()
    thread.join(LEAVE_SECONDS)
    if thread.is_alive():
        logger.warning(
            "the engine's client did not end within %g s: it is left behind", LEAVE_SECONDS
        )


def _finalize() -> None:
    try:
        yr.finalize()
    except Exception as error:  # noqa: BLE001  (the process is ending: nothing else can be done)
        logger.debug("leaving the engine: %s", one_line(error))
