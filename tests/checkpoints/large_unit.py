"""Trains a model of ten million ids by itself, and saves it: run by ``test_large_units.py``.

    python -m tests.checkpoints.large_unit FOLDER EMB_INIT

It starts at the newest checkpoint in the folder, else with a table that is initialised so. It
prints each loss, and at step 6 a checksum of every parameter and the memory it needed at most, in
bytes. If it began without a checkpoint, it saves at step 3 and at the end.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from crc32c import crc32c

from src.checkpoints.store import CheckpointStore
from src.config import load_config
from src.model.model_config import model_shape
from src.model.networks import GetWideDeepNet
from src.stream.position import Position

VOCAB_SIZE = 10_000_000
FLAGS = (
    "--sparse=True",
    f"--vocab_size={VOCAB_SIZE}",
    "--emb_dim=56",
    "--table_optimizer=adagrad",
    "--deep_layer_dim=[16]",
    "--batch_size=50",
)


def batch(step: int) -> list[ms.Tensor]:
    """The batch of a step: ids from the whole table, weights, labels."""
    generator = np.random.default_rng(step)
    ids = generator.integers(0, VOCAB_SIZE, (50, 39)).astype(np.int32)
    ids[:, 20:] = generator.integers(VOCAB_SIZE - 1000, VOCAB_SIZE, (50, 19))  # seen again
    weights = generator.random((50, 39)).astype(np.float32)
    return [
        ms.Tensor(ids),
        ms.Tensor(weights),
        ms.Tensor((weights[:, :1] > 0.7).astype(np.float32)),
    ]


def main(folder: Path, emb_init: str) -> None:
    """Trains to step 6."""
    config = load_config([*FLAGS, f"--emb_init={emb_init}"])
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    store = CheckpointStore(folder, "w", 2)
    network, _ = GetWideDeepNet(config)
    network.set_train()
    unit = store.newest()
    if unit is not None:
        store.restore(unit, network)

    def save(step: int) -> None:
        if unit is None:
            store.save(network, step, Position({0: step}), "t", 1, model_shape(config))

    for step in range(unit.step + 1 if unit else 1, 7):
        losses = network(*batch(step))
        print(f"step {step}: {losses[0].asnumpy()!s} {losses[1].asnumpy()!s}", flush=True)
        if step == 3:
            save(step)
    for parameter in network.get_parameters():
        print(f"{parameter.name} {crc32c(parameter.asnumpy().data):08x}", flush=True)
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, flush=True)
    save(6)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
