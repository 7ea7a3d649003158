"""One rank of ``ranks.py``: times the default model's step and the AllReduce inside it.

    python -m benchmarks.scaling.rank_worker FILE BATCH_SIZE REPEATS dense|sparse

It is started as the launchers start ``online_train.py``. Rank 0 writes the measurements as JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import mindspore as ms
import numpy as np

from benchmarks.documented.step import DOCUMENTED_CONFIG, random_batch
from benchmarks.timing import seconds_of
from src.model.model_config import ModelConfig
from src.model.train_step import TrainStepWrap
from src.model.wide_and_deep import NetWithLossClass, WideDeepModel
from src.process.stop import StopFlag
from src.ranks.group import Ranks
from src.ranks.meeting import meet, serve_as_scheduler
from src.ranks.placement import Role, placement_of
from src.ranks.rounds import Lockstep
from src.ranks.train_step import RankTrainStep
from src.trainer.step_together import packed

SEED = 11
WARM_UP = 3
PROBED_FLOATS = (1 << 16, 1 << 22)  # the sizes on which the model of an AllReduce is fitted


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """The median time of a call, ms, after some uncounted calls."""
    for _ in range(WARM_UP):
        call()
    return 1e3 * statistics.median(seconds_of(call) for _ in range(repeats))


def measure(config: ModelConfig, ranks: Ranks, repeats: int) -> dict[str, object]:
    """``step_ms``, ``agree_ms``, the ``floats`` a step reduces, ``reduce_ms`` by their number."""
    ms.set_seed(SEED)
    network = NetWithLossClass(WideDeepModel(config), config)
    alone = ranks.size == 1
    step = (
        TrainStepWrap(network, config)
        if alone
        else RankTrainStep(network, config, ranks.rank, ranks.size)
    )
    step.set_train()
    ranks.make_equal(step)
    random = np.random.default_rng(SEED + ranks.rank)
    batches = [random_batch(config, random) for _ in range(4)]
    coming = itertools.cycle(batches)

    def train() -> None:
        outputs = step(*next(coming))
        outputs[0].asnumpy(), outputs[1].asnumpy()

    floats = 0 if ranks.alone else step.exchange.bytes_reduced // 4
    step_ms = median_ms(train, repeats)
    sizes = () if ranks.alone else (*PROBED_FLOATS, floats)
    reduce_ms = {size: _reduce_ms(ranks, size, repeats) for size in sizes}
    agree_ms = 0.0 if ranks.alone else _agree_ms(ranks, config.batch_size, repeats)
    return {"step_ms": step_ms, "agree_ms": agree_ms, "floats": floats, "reduce_ms": reduce_ms}


def _agree_ms(ranks: Ranks, batch_size: int, repeats: int) -> float:
    """Time to agree on a step for which all ranks are ready, ms."""
    lockstep, no_batch = Lockstep(ranks, StopFlag()), packed(None, batch_size)
    return median_ms(lambda: lockstep.round(True, False, *no_batch), repeats)


def _reduce_ms(ranks: Ranks, floats: int, repeats: int) -> float:
    values = np.zeros(floats, np.float32)
    copying = median_ms(lambda: ms.Tensor(values, ms.float32).asnumpy(), repeats)
    return median_ms(lambda: ranks.sum(values), repeats) - copying


def main(argv: Sequence[str]) -> int:
    """Measures as one of the ranks."""
    file, batch_size, repeats, kind = Path(argv[0]), int(argv[1]), int(argv[2]), argv[3]
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    placement = placement_of(os.environ)
    if placement.role is Role.SCHEDULER:
        serve_as_scheduler()
    ranks = meet(placement)
    config = dataclasses.replace(DOCUMENTED_CONFIG, batch_size=batch_size, sparse=kind == "sparse")
    measured = measure(config, ranks, repeats)
    if ranks.is_first:
        file.write_text(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
