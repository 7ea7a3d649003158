"""The growing vocabulary of a trainer, whose pipeline reads ahead of its steps."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from src.dictionaries.errors import VocabularyError
from src.dictionaries.growing.vocabulary import Change, GrowthSettings, Vocabulary
from src.process.arrays import Array

logger = logging.getLogger(__name__)


class Growth:
    """Two vocabularies: one of all batches read so far, and one of the steps trained.

    A pipeline reads ahead of the step, but a checkpoint must hold what was trained.

    Args:
        settings: How they grow.
        vocab_size: Rows of the embedding table.
        saved: What ``dump`` returned; None starts with no value.

    Raises:
        VocabularyError: ``saved`` can't be read.
    """

    def __init__(
        self, settings: GrowthSettings, vocab_size: int, saved: bytes | None = None
    ) -> None:
        self._settings = settings
        self._vocab_size = vocab_size
        self._ahead: Vocabulary | None = None
        self._trained: Vocabulary | None = None
        if saved is not None:
            self._ahead = Vocabulary.load(saved, settings)
            self._trained = Vocabulary.load(saved, settings)
        self._was_full = False

    def __len__(self) -> int:
        """How many values have an id, after the steps trained."""
        return 0 if self._trained is None else len(self._trained)

    def grow(
        self, ids: Array, oov: Array, values: Array, free_ids: tuple[int, int]
    ) -> tuple[Array, Array, Change]:
        """Learns from the next batch, see ``Vocabulary.plan``.

        Args:
            ids: int32[batch, 39] by the dictionaries.
            oov: uint32[batch].
            values: S[batch, 26].
            free_ids: The ids that may be assigned, as the consumer sent them.

        Raises:
            VocabularyError: The ids don't fit the table, or differ from those of earlier batches.
        """
        if self._ahead is None:
            if free_ids[1] > self._vocab_size:
                raise VocabularyError(
                    f"the consumer was started with a vocab_size of {free_ids[1]} or more, "
                    f"the trainer's is {self._vocab_size}: both must be equal"
                )
            self._ahead = Vocabulary(free_ids, self._settings)
            self._trained = Vocabulary(free_ids, self._settings)
        if free_ids != self._ahead.free_ids:
            raise VocabularyError(
                "the consumer's flags allow ids {} to {} for new values, the checkpoint "
                "ids {} to {}".format(*free_ids, *self._ahead.free_ids)
            )
        ids, oov, change = self._ahead.plan(ids, oov, values)
        self._ahead.apply(change)
        self._log_full_and_freed(self._ahead, change)
        return ids, oov, change

    def follow(self, change: Change, reset: Callable[[Array], None]) -> None:
        """Records that the batch with this change was trained.

        An id that a batch frees is assigned again by a later batch at the earliest. By then its
        rows are reset.

        Args:
            change: As returned by ``grow``, in the same order.
            reset: Resets the rows of ids, int32[n], to initial values everywhere in the model.
        """
        assert self._trained is not None, "a change comes from a batch"
        self._trained.apply(change)
        if len(change.freed):
            reset(self.ids_of(change.freed))

    def ids_of(self, slots: Array) -> Array:
        """The ids of slots, int32[n]; there after the first batch."""
        assert self._trained is not None, "slots come from a batch"
        ids: Array = (self._trained.free_ids[0] + slots).astype(np.int32)
        return ids

    def entries(self, ids: Array | None = None) -> tuple[Array, Array, list[bytes]]:
        """Which values have ids after the steps trained, see ``Vocabulary.entries``."""
        assert self._trained is not None, "a step was trained"
        return self._trained.entries(ids)

    def dump(self) -> bytes:
        """The vocabulary after the steps trained; empty before the first batch."""
        return self.copied()()

    def copied(self) -> Callable[[], bytes]:
        """Copies that vocabulary; the result makes of the copy what ``dump`` returns."""
        return bytes if self._trained is None else self._trained.copied()

    def _log_full_and_freed(self, vocabulary: Vocabulary, change: Change) -> None:
        is_full = vocabulary.room == 0
        if is_full and not self._was_full:
            logger.warning(
                "the vocabulary is full: %d values have an id; an id that is in no row for %d rows "
                "may go to another value",
                len(vocabulary),
                self._settings.expire_rows,
            )
        self._was_full = is_full or self._was_full
        if len(change.freed):
            logger.info(
                "%d ids freed, in no row for %d rows",
                len(change.freed),
                self._settings.expire_rows,
            )
