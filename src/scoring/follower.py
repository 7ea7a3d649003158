"""Follows the folder of versions: the newest one that is whole serves.

Two replicas take turns. The next version is made in the one that does not serve: it is brought up
to date, checked and tried, and then one reference is swapped. Requests that run keep the replica
that they have begun with. A replica that is still in use is left to them, and another is made.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from src.process.stop import StopFlag
from src.publishing.chain import CURRENT, check_link, read_current
from src.publishing.version_format import (
    FULL,
    Contents,
    Manifest,
    PublishingError,
    read_manifest,
)
from src.scoring.model import ServedModel
from src.scoring.replica import Replica

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
RETRY_SECONDS = 1.0
"""How long until a version that could not be loaded is tried again."""
MOST_SECONDS_IN_USE = 1.0
"""How long to wait for requests that still use the replica to change."""


class NotReadyError(RuntimeError):
    """There is no version that could serve; one line says why."""


@dataclass(frozen=True)
class _Serving:
    model: ServedModel
    replica: Replica


class Follower:
    """Serves the newest version of a folder.

    Args:
        directory: The folder of versions; it may come later.
        clock: Seconds, for retries.

    Attributes:
        swaps: How many times another version began to serve.
        failures: How many times a version could not be loaded.
        fault: What is wrong with the newest version; empty where it serves.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.swaps = 0
        self.failures = 0
        self.fault = ""
        self._directory = directory
        self._clock = clock
        self._swap = threading.Lock()
        self._serving: _Serving | None = None
        self._spare: Replica | None = None
        self._deltas: dict[str, Contents] = {}
        self._seen: object = None
        self._retry_at = 0.0

    @contextmanager
    def model(self) -> Iterator[ServedModel]:
        """The version that serves, which stays as it is while the block runs.

        Raises:
            NotReadyError: There is none.
        """
        with self._swap:
            serving = self._serving
            if serving is None:
                raise NotReadyError(self.fault or f"no version in {self._directory} yet")
            using = serving.replica.used()
            using.__enter__()
        try:
            yield serving.model
        finally:
            using.__exit__(None, None, None)

    @property
    def manifest(self) -> Manifest | None:
        """What the version is that serves; None before the first."""
        serving = self._serving
        return None if serving is None else serving.model.manifest

    def run(self, flag: StopFlag) -> None:
        """Looks for the next version again and again, until the flag is set."""
        while not flag.is_set():
            self.look()
            flag.wait(POLL_SECONDS)

    def look(self) -> None:
        """Lets the newest version serve, if there is another than before."""
        seen = self._signature()
        is_due = bool(self.fault) and self._clock() >= self._retry_at
        if seen == self._seen and not is_due:
            return
        self._seen = seen
        try:
            self._follow()
        except PublishingError as error:
            self._failed(str(error))
        except MemoryError:
            self._failed("there is not enough memory for another version")
        except Exception:  # whatever it is, the version that serves goes on
            logger.exception("a version could not be loaded")
            self._failed("a version could not be loaded")
        else:
            if self.fault and self._serving is not None:
                logger.info("versions can be loaded again")
            self.fault = ""

    def _signature(self) -> object:
        """Changes whenever ``current.json`` is replaced."""
        try:
            status = os.stat(self._directory / CURRENT)
        except OSError as error:
            return error.errno
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _failed(self, reason: str) -> None:
        self.failures += 1
        self._retry_at = self._clock() + RETRY_SECONDS
        if reason != self.fault:
            served = self.manifest
            instead = "nothing serves" if served is None else f"version {served.name} still serves"
            logger.error("%s: %s", reason, instead)
        self.fault = reason

    def _follow(self) -> None:
        """Makes the newest version that is whole serve.

        Raises:
            PublishingError: It is not the one that ``current.json`` names; one line says why.
        """
        chain = read_current(self._directory)
        if chain is None:
            if self._serving is None:
                return
            raise PublishingError(f"{self._directory / CURRENT} is gone")
        names = chain.names
        if self._name() == names[-1]:
            return
        self._spare = spare = self._free_replica(names)
        try:
            self._advance(spare, names)
        except PublishingError:
            if self._is_ahead(spare, names):
                self._swap_to(spare)
            raise
        self._swap_to(spare)

    def _name(self) -> str | None:
        """The version that serves."""
        serving = self._serving
        return None if serving is None else serving.replica.name

    def _free_replica(self, names: Sequence[str]) -> Replica:
        """A replica that nobody uses; it holds a version of the chain where there is one."""
        spare = self._spare or Replica()
        if not spare.wait_until_free(MOST_SECONDS_IN_USE):
            logger.info("a request takes long: the next version gets memory of its own")
            spare = Replica()
        if spare.name not in names and self._serving is not None and self._name() in names:
            spare.copy_from(self._serving.replica)
        return spare

    def _advance(self, spare: Replica, names: Sequence[str]) -> None:
        """Brings a replica to the end of a chain, or to the last version before a fault."""
        serving = self._name()
        # The replica that serves needs the same deltas when its turn comes.
        later = set(names[names.index(serving) + 1 :]) if serving in names else set()
        begin = names.index(spare.name) + 1 if spare.name in names else 0
        before = spare.manifest if begin else None
        for name in names[begin:]:
            manifest = read_manifest(self._directory / name)
            check_link(before, manifest)
            contents = spare.move_on(self._directory, manifest, self._deltas.get(name))
            if name in later:
                self._deltas[name] = contents
            before = manifest
        self._deltas = {name: held for name, held in self._deltas.items() if name in later}

    def _is_ahead(self, spare: Replica, names: Sequence[str]) -> bool:
        """Whether a replica holds a later version of the chain than the one that serves."""
        if spare.name is None or spare.name not in names:
            return False
        serving = self._name()
        if serving is None:
            return True
        return serving in names and names.index(spare.name) > names.index(serving)

    def _swap_to(self, spare: Replica) -> None:
        model = spare.model()
        with self._swap:
            before, self._serving = self._serving, _Serving(model, spare)
        self._spare = None if before is None else before.replica
        self.swaps += 1
        log = logger.info if before is None or model.manifest.kind == FULL else logger.debug
        log("version %s serves", model.manifest.name)
