"""What ``rank_program.py`` has ranks train: a tiny model, on their stripes of a seeded stream."""

from __future__ import annotations

import dataclasses

import mindspore as ms
import numpy as np
from mindspore import Tensor

from benchmarks.documented.step import DOCUMENTED_CONFIG, random_batch
from src.channel.batches import filled_up
from src.model.crosses import CrossLearner
from src.model.model_config import ModelConfig
from src.model.networks import TrainNet, make_train_step
from src.model.wide_and_deep import NetWithLossClass, WideDeepModel
from src.process.arrays import Array
from src.ranks.group import Ranks
from src.ranks.train_step import RankStepWithCrosses, RankTrainStep

TINY = dataclasses.replace(
    DOCUMENTED_CONFIG, vocab_size=70_000, emb_dim=4, deep_layer_dim=(16, 8), batch_size=24
)
KINDS = ("dense", "crossed")
"""Every row is updated; or touched rows are, with a learner of crosses beside the net.

Of the second kind each third batch is not full.
"""


def train_kind(kind: str, steps: int, global_batch: int, ranks: Ranks) -> dict[str, Array]:
    """The parameters after the last step, and the losses and logits, of one of ``KINDS``."""
    config = dataclasses.replace(TINY, batch_size=global_batch, sparse=kind != "dense")
    if kind == "crossed":
        config = dataclasses.replace(
            config, cross_bits=14, cross_learning_rate=0.05, fills_batches=True
        )
    return train(config, steps, ranks)


def train(config: ModelConfig, steps: int, ranks: Ranks) -> dict[str, Array]:
    """Trains on rank r's stripe of each batch of the global `config`: rows r, r + N, …"""
    ms.set_seed(3)
    own = dataclasses.replace(config, batch_size=config.batch_size // ranks.size)
    step = step_of(own, ranks)
    step.set_train()
    ranks.make_equal(step)
    random = np.random.default_rng(5)
    losses, logits = [], []
    for number in range(steps):
        batch = [
            tensor.asnumpy()[ranks.rank :: ranks.size] for tensor in random_batch(config, random)
        ]
        if config.cross_bits:
            keys = random.integers(0, 2**30, 50)[random.integers(0, 50, (config.batch_size, 39))]
            batch.append(keys.astype(np.int32)[ranks.rank :: ranks.size])
        rows = own.batch_size // 2 if config.fills_batches and number % 3 == 2 else own.batch_size
        filled = filled_up([part[:rows] for part in batch], own.batch_size)
        wide, deep, logit = step(*(Tensor(np.ascontiguousarray(part)) for part in filled))
        losses.append([float(wide.asnumpy()), float(deep.asnumpy())])
        by_rank = logit.asnumpy().reshape(ranks.size, -1)[:, :rows]
        logits.append(np.resize(by_rank.T, config.batch_size))  # in stream order
    ranks.verify_equal(step)
    state = {parameter.name: parameter.asnumpy() for parameter in step.get_parameters()}
    return {**state, "losses": np.array(losses), "logits": np.array(logits)}


def step_of(config: ModelConfig, ranks: Ranks) -> TrainNet:
    """The training step of a rank, or of one device."""
    network = NetWithLossClass(WideDeepModel(config), config)
    crosses = CrossLearner(config) if config.cross_bits else None
    if ranks.size == 1:
        return make_train_step(network, config, crosses)
    step = RankTrainStep(network, config, ranks.rank, ranks.size)
    return step if crosses is None else RankStepWithCrosses(step, crosses, ranks.rank, ranks.size)
