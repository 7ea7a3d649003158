"""The growing vocabulary at a trainer, whose pipeline reads ahead of its steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Optional

import numpy as np

from src.dictionaries.vocabulary import Change, GrowthSettings, Vocabulary, VocabularyError
from src.process.arrays import Array

logger = logging.getLogger(__name__)


class Growth:
    """Two vocabularies: one ahead, of the batches handed out, and one of the steps trained.

    A pipeline reads ahead of the step, but a checkpoint holds what was trained.

    Args:
        settings: How they grow.
        vocab_size: Rows of the embedding table.
        saved: What ``dump`` gave; None starts with no value.

    Raises:
        VocabularyError: ``saved`` can't be read.
    """

    def __init__(
        self, settings: GrowthSettings, vocab_size: int, saved: Optional[bytes] = None
    ) -> None:
        self._settings = settings
        self._vocab_size = vocab_size
        self._ahead: Optional[Vocabulary] = None
        self._trained: Optional[Vocabulary] = None
        if saved is not None:
            self._ahead = Vocabulary.load(saved, settings)
            self._trained = Vocabulary.load(saved, settings)
        self._was_full = False

    def __len__(self) -> int:
        """How many values have an id, as far as was trained."""
        return 0 if self._trained is None else len(self._trained)

    def grow(
        self, ids: Array, oov: Array, values: Array, free_ids: tuple[int, int]
    ) -> tuple[Array, Array, Change]:
        """Takes the next batch; see ``Vocabulary.plan``.

        Args:
            ids: int32[batch, 39] by the dictionaries.
            oov: uint32[batch].
            values: S[batch, 26].
            free_ids: The ids that the consumer says may be given out.

        Raises:
            VocabularyError: The ids don't fit the table, or others were given out so far.
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
                "ids {} to {} may be given out by the consumer's flags, {} to {} by the "
                "checkpoint".format(*free_ids, *self._ahead.free_ids)
            )
        found = self._ahead.plan(ids, oov, values)
        self._ahead.apply(found[2])
        self._warn_when_full(self._ahead, found[2])
        return found

    def follow(self, change: Change, reset: Callable[[Array], None]) -> None:
        """Takes note that the batch with this change was trained.

        An id that a batch takes back is given out by a later batch at the earliest, so that its
        rows are fresh by then.

        Args:
            change: As ``grow`` gave it; changes come in their order.
            reset: Gives the rows of ids, int32[n], the values of fresh ones in all of the model.
        """
        assert self._trained is not None, "a change comes from a batch"
        self._trained.apply(change)
        if len(change.freed):
            reset((self._trained.free_ids[0] + change.freed).astype(np.int32))

    def dump(self) -> bytes:
        """The vocabulary as far as was trained; empty before the first batch."""
        return b"" if self._trained is None else self._trained.dump()

    def _warn_when_full(self, vocabulary: Vocabulary, change: Change) -> None:
        is_full = vocabulary.room == 0
        if is_full and not self._was_full:
            logger.warning(
                "the vocabulary is full: %d values have an id of their own, and %d rows must pass "
                "without one before its id is given to another",
                *(len(vocabulary), self._settings.expire_rows),
            )
        self._was_full = is_full or self._was_full
        if len(change.freed):
            logger.info(
                "%d ids freed, in no row for %d rows",
                *(len(change.freed), self._settings.expire_rows),
            )
