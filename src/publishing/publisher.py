"""Publishes versions beside training: only copying what is written stops it.

Between two steps the trainer has a ``Snapshot`` taken. A thread judges it, writes it, and lets
``current.json`` name it. The trainer learns what has become of it before the next one. So a delta
always builds on a version that is durable, and what a failed write has lost is in the next delta.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from src.process.arrays import Array
from src.publishing.changes import ChangeCollector
from src.publishing.folder import VersionFolder
from src.publishing.gate import Gate, Quality
from src.publishing.numbers import PublishingNumbers
from src.publishing.version_format import (
    DELTA,
    FULL,
    MANIFEST,
    Contents,
    Manifest,
    PublishingError,
    write_version,
)
from src.stream.position import Position

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishingSettings:
    """How versions are published.

    Attributes:
        seconds: Between two versions.
        full_every: A full version comes after so many; 1 where all are full.
        keep: How many chains are kept.
        tolerance: By how much the log loss may get worse, in nats.
        topic: The topic of the rows.
        model: What scoring needs, see ``version_format``.
    """

    seconds: float
    full_every: int
    keep: int
    tolerance: float
    topic: str
    model: Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """Where training stands between two steps.

    Attributes:
        step: Steps trained.
        position: The position after them.
        trained_until_ms: Kafka's time of the newest row learnt.
        dictionaries: Fingerprint of the dictionaries that made the ids.
        newest: (logit, is_click) of the newest rows, as ``ProgressiveMetrics.newest``.
    """

    step: int
    position: Position
    trained_until_ms: int
    dictionaries: int
    newest: tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """What a version is made of."""

    moment: Moment
    contents: Contents
    chain: tuple[str, ...]
    """The versions that a delta builds on; none for a full one."""


class Publisher:
    """Publishes a trainer's versions. One thread at a time calls it, between two steps.

    Args:
        folder: Where versions go; it is open.
        settings: How they are published.
        collector: Knows what has moved.
        numbers: Count, for Prometheus.
        clock: Milliseconds since 1970.
    """

    def __init__(
        self,
        folder: VersionFolder,
        settings: PublishingSettings,
        collector: ChangeCollector,
        numbers: PublishingNumbers,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._collector = collector
        self._numbers = numbers
        self._clock = clock
        self._run = secrets.token_hex(4)
        before = folder.newest()
        is_comparable = before is not None and before.topic == settings.topic
        published = Quality.of_manifest(before) if before and is_comparable else None
        self._gate = Gate(settings.tolerance, published)
        self._chain: tuple[str, ...] = ()
        self._said: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publishing")
        self._writing: Future[bool] | None = None
        self._snapshot: _Snapshot | None = None

    @property
    def is_writing(self) -> bool:
        """Whether a version is still being written."""
        return self._writing is not None and not self._writing.done()

    def publish(self, moment: Moment) -> None:
        """Copies what the next version holds and has it written; waits for the one before it."""
        self.wait()
        chain = self._chain if self._can_continue() else ()
        contents = self._collector.delta() if chain else self._collector.full()
        self._snapshot = _Snapshot(moment, contents, chain)
        self._writing = self._thread.submit(self._write, self._snapshot)

    def wait(self) -> None:
        """Waits until the version under way is published or not, and remembers which."""
        writing, snapshot = self._writing, self._snapshot
        if writing is None or snapshot is None:
            return
        self._writing = self._snapshot = None
        if writing.result():
            self._chain = (*snapshot.chain, self._name_of(snapshot.moment))
        elif snapshot.chain:
            self._collector.put_back(snapshot.contents)

    def close(self) -> None:
        """Waits for the version under way, and ends the thread."""
        self._thread.shutdown(wait=True)

    def _can_continue(self) -> bool:
        """Whether a delta may follow: there is a chain, and somebody has not removed its end."""
        return (
            0 < len(self._chain) < self._settings.full_every
            and (self._folder.directory / self._chain[-1] / MANIFEST).exists()
        )

    def _name_of(self, moment: Moment) -> str:
        return f"{moment.step}-{self._run}"

    # --- in the thread

    def _write(self, snapshot: _Snapshot) -> bool:
        """Publishes a snapshot if it is good enough; whether it is published."""
        quality = Quality.of(*snapshot.moment.newest)
        refusal = self._gate.refusal(snapshot.contents, quality)
        if refusal is not None:
            self._numbers.on_refused(refusal.cause)
            self._say(
                refusal.cause,
                f"version {snapshot.moment.step} is not published: {refusal.text}; "
                "the version before it stays",
            )
            return False
        manifest = self._manifest(snapshot, quality)
        try:
            manifest = write_version(self._folder.directory, manifest, snapshot.contents)
            self._folder.advance([*snapshot.chain, manifest.name])
        except PublishingError as error:
            self._folder.discard(manifest.name)
            self._numbers.on_failed()
            self._say("writing", f"{error}; training goes on, the next version is tried as usual")
            return False
        self._gate.passed(quality)
        self._numbers.on_published(manifest)
        if self._said:
            logger.info("version %s is published", manifest.name)
        self._said.clear()
        if manifest.kind == FULL:
            self._remove_old()
        return True

    def _manifest(self, snapshot: _Snapshot, quality: Quality) -> Manifest:
        moment, chain = snapshot.moment, snapshot.chain
        name = self._name_of(moment)
        return Manifest(
            name=name,
            version=moment.step,
            kind=DELTA if chain else FULL,
            base=chain[0] if chain else name,
            previous=chain[-1] if chain else None,
            topic=self._settings.topic,
            position=moment.position,
            trained_until_ms=moment.trained_until_ms,
            published_ms=self._clock(),
            progressive=quality.to_json(),
            model=self._settings.model,
            dictionaries=f"{moment.dictionaries:016x}",
        )

    def _remove_old(self) -> None:
        try:
            self._folder.remove_old(self._settings.keep)
        except PublishingError as error:
            logger.warning("old versions stay: %s", error)

    def _say(self, cause: str, text: str) -> None:
        """Warns once of a cause, until a version is published again."""
        if cause not in self._said:
            logger.warning("%s", text)
        self._said.add(cause)
