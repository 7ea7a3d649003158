"""Logs when the stream differs from the rows that the dictionaries were made from."""

from __future__ import annotations

import logging
from pathlib import Path

from src.consumer.window_assembler import Watch
from src.dictionaries.dictionaries import Dictionaries
from src.dictionaries.oov import count_oov
from src.features.drift import DriftGuard, Profile
from src.process.arrays import Array

logger = logging.getLogger(__name__)


def drift_watch(profile_path: str, dictionaries: Dictionaries) -> Watch:
    """A function that logs when windows leave what the profile predicts, and when they are back.

    Args:
        profile_path: The file of the profile. If there is none, nothing is watched.
        dictionaries: Bounds of the dense columns.

    Raises:
        ProfileError: The file can't be read.
    """
    if not Path(profile_path).exists():
        logger.info("no profile %s: the drift of the stream is not watched", profile_path)
        return lambda labels, dense, oov: None
    guard = DriftGuard(Profile.load(profile_path), dictionaries)

    def watch(labels: Array, dense: Array, oov: Array) -> None:
        changed = guard.observe(labels, dense, count_oov(oov))
        left = [str(deviation) for deviation in changed if not deviation.within]
        back = [str(deviation) for deviation in changed if deviation.within]
        if left:
            logger.warning(
                "the stream is not what the dictionaries were made from: %s", "; ".join(left)
            )
        if back:
            logger.info("as expected again: %s", "; ".join(back))

    return watch
