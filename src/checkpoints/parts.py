"""What is in a unit's .ckpt file: every parameter, and perhaps the grown vocabulary."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np

from src.checkpoints.unit import CheckpointError, Unit

VOCABULARY = "vocabulary"
"""The entry of a .ckpt file, uint8, that holds the grown vocabulary; it is no parameter."""


def read_vocabulary(unit: Unit) -> bytes | None:
    """The grown vocabulary in a unit; None where it has none.

    Raises:
        CheckpointError: The file can't be read.
    """
    entry = load(unit).get(VOCABULARY)
    return None if entry is None else entry.asnumpy().tobytes()


def load(unit: Unit) -> dict[str, ms.Parameter]:
    """Everything in a unit's .ckpt file, by name.

    Raises:
        CheckpointError: The file can't be read.
    """
    try:
        saved: dict[str, ms.Parameter] = ms.load_checkpoint(str(unit.path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{unit.path}: {' '.join(str(error).split())[:200]}") from None
    return saved


def entries(network: ms.nn.Cell, vocabulary: bytes) -> Any:
    """What ``save_checkpoint`` is to write."""
    if not vocabulary:
        return network
    entries = [{"name": entry.name, "data": entry} for entry in network.get_parameters()]
    data = ms.Tensor(np.frombuffer(vocabulary, dtype=np.uint8))
    return [*entries, {"name": VOCABULARY, "data": data}]
