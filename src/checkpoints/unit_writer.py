"""Writes a trainer's units, beside training where it can: only copying what is saved stops it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import mindspore as ms

from src.checkpoints.copies import KeptCopies, views_of
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import Unit
from src.process.arrays import Array
from src.stream.position import Position

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Moment:
    """What a unit holds besides the parameters, as it was between two steps.

    Attributes:
        step: Steps trained.
        position: The position after them.
        topic: The topic the position speaks of.
        dictionaries: Fingerprint of the dictionaries that made the ids.
        model: What the weights' shapes follow from.
        sync: Makes durable what must be so before the unit. Like those below it may be called while
            training goes on.
        extra: Makes what else continues with the weights, as JSON.
        vocabulary: Makes the grown vocabulary's bytes; none where it is fixed.
    """

    step: int
    position: Position
    topic: str
    dictionaries: int
    model: Mapping[str, Any]
    sync: Callable[[], None]
    extra: Callable[[], Mapping[str, Any]]
    vocabulary: Callable[[], bytes]


class UnitWriter:
    """Writes units one at a time, in a thread of its own or in the caller's.

    Guarantee: ``Moment.sync`` is called before a unit is written, and ``on_durable`` once it is
    durable. A failed write is the last one: each later call raises its error again.

    One thread at a time calls it, between two steps.

    Args:
        network: All its parameters are saved, the optimizers' state with them.
        owner: Holds the lock of the folder.
        moment: Returns the rest of the state.
        on_durable: Called with each unit, and whether that is in the writer's own thread.
        copies: Copies the parameters; None has every unit written in the caller's thread.
    """

    def __init__(
        self,
        network: ms.nn.Cell,
        owner: CheckpointStore,
        moment: Callable[[], Moment],
        on_durable: Callable[[Unit, bool], None],
        copies: KeptCopies | None = None,
    ) -> None:
        self._network = network
        self._owner = owner
        self._moment = moment
        self._on_durable = on_durable
        self._copies = copies
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None
        self._failure: Exception | None = None
        self._is_told = False

    @property
    def has_failed(self) -> bool:
        """Whether a unit could not be written."""
        return self._failure is not None

    @property
    def is_writing(self) -> bool:
        """Whether a unit is still being written."""
        return self._writing is not None and not self._writing.done()

    def prepare(self) -> None:
        """Has the memory for copies taken, so that the first one is as fast as the others."""
        if self._copies is not None:
            views = views_of(self._network)  # only the shapes count
            self._thread.submit(self._copies.make_room, views)

    def begin(self, store: CheckpointStore) -> bool:
        """Copies the state and has it written; waits for the unit before it.

        Returns:
            False where it can't be copied. Then nothing is written.

        Raises:
            CheckpointError, OutputError: The unit before it could not be written.
        """
        self.wait()
        copies = None if self._copies is None else self._copies.take(views_of(self._network))
        if copies is None:
            return False
        self._writing = self._thread.submit(self._write, store, copies, self._moment(), True)
        return True

    def write(self, store: CheckpointStore) -> None:
        """Writes the state, durable on return; waits for the unit before it.

        Raises:
            CheckpointError, OutputError: It could not be written, or the unit before it.
        """
        self.wait()
        self._write(store, views_of(self._network), self._moment(), False)

    def do_after(self, work: Callable[[], None]) -> None:
        """Has something done in the thread once the unit under way is written, or has failed."""
        self._thread.submit(work)

    def check(self) -> None:
        """Waits for nothing.

        Raises:
            CheckpointError, OutputError: A unit could not be written.
        """
        if not self.is_writing:
            self.wait()

    def wait(self) -> None:
        """Waits until the unit under way is written.

        Raises:
            CheckpointError, OutputError: It could not be written.
        """
        self.finish()
        if self._failure is not None:
            self._is_told = True
            raise self._failure

    def finish(self) -> None:
        """Waits until the unit under way is written, or has failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.result()
            except Exception as error:
                self._failure = error

    def close(self) -> None:
        """Finishes, and ends the thread; an error that was never raised is logged."""
        self.finish()
        if self._failure is not None and not self._is_told:
            logger.error("%s", self._failure)
        self._thread.shutdown()

    def _write(
        self, store: CheckpointStore, entries: Mapping[str, Array], moment: Moment, is_beside: bool
    ) -> None:
        moment.sync()
        store.share_lock(self._owner)
        unit = store.save(
            entries,
            moment.step,
            moment.position,
            moment.topic,
            moment.dictionaries,
            moment.model,
            moment.extra(),
            moment.vocabulary(),
        )
        logger.info("checkpoint %s at position %s", unit.path, unit.position)
        self._on_durable(unit, is_beside)
