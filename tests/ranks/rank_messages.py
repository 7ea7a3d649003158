"""What ``rank_program.py`` has ranks tell each other outside the training step."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from src.process.stop import StopFlag
from src.ranks.group import Ranks
from src.ranks.placement import RankError
from src.ranks.rounds import Lockstep

MESSAGE = {"text": "Größe", "numbers": [1, -2.5, 2**40], "nothing": None}
# What float32 has of odd values: each must arrive as it was sent.
ODD = np.array([0.0, 1.0, -1.5, 1.2e-38, 3.4e38, np.inf, -np.inf, 16_777_215.0], np.float32)


class Weights(nn.Cell):  # type: ignore[misc]
    """Parameters of several types, of which some have an odd number of bytes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = np.random.default_rng(seed)
        floats = random.normal(size=(7, 5)).astype(np.float32)
        floats[0] = [np.nan, np.inf, -0.0, 1e-45, 0.0]
        values = {
            "same": np.arange(6, dtype=np.float32),
            "floats": floats,
            "half": random.normal(size=9).astype(np.float16),
            "whole": random.integers(-(2**31), 2**31 - 1, 5, dtype=np.int32),
            "bytes": random.integers(0, 256, 3, dtype=np.uint8),
            "scalar": np.array(random.normal(), np.float32),
        }
        for name, value in values.items():
            setattr(self, name, ms.Parameter(ms.Tensor(value), name=name))

    def bits(self) -> dict[str, str]:
        """Every parameter's bytes, as hexadecimal digits."""
        return {p.name: p.asnumpy().tobytes().hex() for p in self.get_parameters()}


def exchange(ranks: Ranks) -> dict[str, Any]:
    """What a rank is told by the others."""
    longer = list(range(300_000))  # of more than one piece
    return {
        "shared": ranks.share(MESSAGE if ranks.is_first else "not asked for"),
        "longer": ranks.share(longer if ranks.is_first else None) == longer,
        "empty": ranks.share("" if ranks.is_first else None),
        "gathered": ranks.gather(ODD + np.float32(ranks.rank)).tolist(),
        "sum": ranks.sum(np.full((2, 3), ranks.rank + 1, np.float32)).tolist(),
    }


def equalise(ranks: Ranks) -> dict[str, Any]:
    """What becomes of weights that differ, and of one that is moved on the last rank alone."""
    network = Weights(seed=ranks.rank)
    differing = ranks.differing(network)
    sent = ranks.make_equal(network)
    bits = network.bits()
    again = ranks.make_equal(network)
    if ranks.rank == ranks.size - 1:
        moved = network.floats.asnumpy().copy()
        moved[3, 3] = np.nextafter(moved[3, 3], np.float32(9))
        network.floats.set_data(ms.Tensor(moved))
    try:
        ranks.verify_equal(network)
        refused = ""
    except RankError as error:
        refused = str(error)
    return {"differing": differing, "sent": sent, "again": again, "bits": bits, "refused": refused}


def step_together(ranks: Ranks) -> dict[str, Any]:
    """Rounds over the real exchange: nobody goes on alone, a stop at the last rank reaches all."""
    flag = StopFlag()
    lockstep = Lockstep(ranks, flag)
    attempts = 0

    def attempt() -> bool:
        nonlocal attempts
        attempts += 1
        return attempts > ranks.rank

    met = lockstep.until_all(attempt)
    told = lockstep.on_first(lambda: "done")
    if ranks.rank == ranks.size - 1:
        flag.set("a test")
    stop, _ = lockstep.round()
    return {"met": met, "attempts": attempts, "told": told, "stop": stop, "reason": flag.reason}


def talk(ranks: Ranks) -> dict[str, Any]:
    """All of it: what a rank has been told and what has become of its weights."""
    return {**exchange(ranks), **equalise(ranks), **step_together(ranks)}
