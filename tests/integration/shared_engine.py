"""One yr engine for all test processes of a run: a host has no more than one."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from examples.services.engine_service import (
    EngineService,
    engine_is_running,
    engine_processes,
    stop_engine,
)


class SharedEngine:
    """The engine as the test processes of a run share it.

    The process that needs the engine first starts it. At its end it waits until no other process
    uses the engine, and stops it.

    Args:
        folder: For lock files; the same for all processes of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started_by_the_run = folder / "engine.started"

    @contextmanager
    def used(self) -> Iterator[EngineService]:
        """Starts the engine unless it runs. If it was started here, it is stopped at the end."""
        service = EngineService()
        with ExitStack() as using:
            with self._locked("starting", fcntl.LOCK_EX):
                using.enter_context(self._locked("users", fcntl.LOCK_SH))
                service.start()
                if service.started_here:
                    self._started_by_the_run.touch()
            yield service
        if service.started_here:
            with self._locked("users", fcntl.LOCK_EX):
                self._started_by_the_run.unlink()
                service.stop()
                assert not engine_processes()

    @contextmanager
    def during_a_test(self) -> Iterator[None]:
        """Keeps the engine running for a test; waits while it is replaced."""
        with self._entered(fcntl.LOCK_SH):
            yield

    @contextmanager
    def replaced(self) -> Iterator[bool]:
        """Makes room for an engine that a test starts itself; restores the run's engine after it.

        Yields:
            Whether there is room: an engine that ran before the tests is left alone.
        """
        with self._entered(fcntl.LOCK_EX):
            was_running = engine_is_running()
            if was_running and not self._started_by_the_run.exists():
                yield False
                return
            if was_running:
                stop_engine()
            try:
                yield True
            finally:
                if engine_is_running():
                    stop_engine()
                if was_running:
                    EngineService(detached=True).start()  # its first starter stops it

    @contextmanager
    def _entered(self, how: int) -> Iterator[None]:
        """Several tests may be in, or one alone."""
        with ExitStack() as using:
            # The gate: one that waits to be alone goes before those that come later.
            with self._locked("gate", fcntl.LOCK_EX):
                using.enter_context(self._locked("test", how))
            yield

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        with open(self._folder / f"engine.{name}", "a") as file:
            fcntl.flock(file, how)
            yield
