"""Run by every rank of a launch: trains a tiny model on its stripes of a seeded stream.

    python -m tests.rank_step FOLDER STEPS GLOBAL_BATCH

It does so twice, and each rank writes ``dense_<rank>.npz`` and ``sparse_<rank>.npz``: the
parameters after the last step, and the losses and logits.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from src.role import NOT_MET_EXIT_CODE, RankError, Role, map_mpi_to_dynamic_network, placement_of

if __name__ == "__main__":
    placement = placement_of(os.environ)
    if placement.role is Role.MPI_RANK:
        placement = map_mpi_to_dynamic_network(placement, os.environ)

import mindspore as ms
import numpy as np
from mindspore import Tensor

from benchmarks.documented_step import DOCUMENTED_CONFIG, random_batch
from src.arrays import Array
from src.ranks import Ranks, meet, serve_as_scheduler
from src.wide_and_deep import ModelConfig, NetWithLossClass, TrainStepWrap, WideDeepModel

TINY = dataclasses.replace(
    DOCUMENTED_CONFIG, vocab_size=70_000, emb_dim=4, deep_layer_dim=(16, 8), batch_size=24
)
KINDS = ("dense", "sparse")


def train(config: ModelConfig, steps: int, ranks: Ranks) -> dict[str, Array]:
    """Trains on rank r's stripe of each batch of the global `config`: rows r, r + N, …"""
    ms.set_seed(3)
    own = dataclasses.replace(config, batch_size=config.batch_size // ranks.size)
    network = NetWithLossClass(WideDeepModel(own), own)
    step = TrainStepWrap(network, own, rank=ranks.rank, size=ranks.size)
    step.set_train()
    ranks.make_equal(step)
    random = np.random.default_rng(5)
    losses, logits = [], []
    for _ in range(steps):
        batch = [
            tensor.asnumpy()[ranks.rank :: ranks.size] for tensor in random_batch(config, random)
        ]
        wide, deep, logit = step(*(Tensor(np.ascontiguousarray(part)) for part in batch))
        losses.append([float(wide.asnumpy()), float(deep.asnumpy())])
        logits.append(logit.asnumpy().reshape(ranks.size, -1).T.ravel())  # in stream order
    ranks.verify_equal(step)
    state = {parameter.name: parameter.asnumpy() for parameter in step.get_parameters()}
    return {**state, "losses": np.array(losses), "logits": np.array(logits)}


def main(argv: list[str]) -> int:
    """Trains as one of the ranks."""
    folder, steps, batch = Path(argv[0]), int(argv[1]), int(argv[2])
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    if placement.role is Role.SCHEDULER:
        serve_as_scheduler()
    try:
        ranks = meet(placement)
    except RankError:
        return NOT_MET_EXIT_CODE  # MindSpore's start does not always come off
    for kind in KINDS:
        config = dataclasses.replace(TINY, batch_size=batch, sparse=kind == "sparse")
        np.savez(folder / f"{kind}_{ranks.rank}.npz", **train(config, steps, ranks))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
