"""A batch that is filled up trains what its real rows alone would, to float32's rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from benchmarks.documented.step import DOCUMENTED_CONFIG, random_batch
from src.channel.batches import filled_up
from src.model.crosses import CrossLearner
from src.model.model_config import ModelConfig
from src.model.networks import TrainNet, make_train_step
from src.model.wide_and_deep import NetWithLossClass, WideDeepModel
from src.process.arrays import Array

BATCH = 16
DENSE = dataclasses.replace(
    DOCUMENTED_CONFIG,
    batch_size=BATCH,
    vocab_size=400,
    emb_dim=4,
    deep_layer_dim=(16, 8),
    fills_batches=True,
)
SPARSE = dataclasses.replace(DENSE, sparse=True)
CROSSED = dataclasses.replace(
    SPARSE,
    wide_initial_accumulator=1e-5,
    table_optimizer="adagrad",
    table_learning_rate=0.02,
    deep_pairs=True,
    cross_bits=12,
)
KINDS = {"dense": DENSE, "sparse": SPARSE, "crossed": CROSSED, "crossed by operators": CROSSED}

Outputs = list[Array]


@pytest.fixture(autouse=True, scope="module")
def graph_mode() -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


def step_of(kind: str, batch_size: int, fills_batches: bool = True) -> TrainNet:
    config = dataclasses.replace(KINDS[kind], batch_size=batch_size, fills_batches=fills_batches)
    ms.set_seed(5)
    network = NetWithLossClass(WideDeepModel(config), config)
    crosses = CrossLearner(config) if config.cross_bits else None
    if crosses is not None and kind == "crossed by operators":
        crosses.native = None
    step = make_train_step(network, config, crosses)
    step.set_train()
    return step


def rows(config: ModelConfig, random: np.random.Generator) -> list[Array]:
    """id, weight, label and, where crosses are learnt, key of a whole batch."""
    batch = [tensor.asnumpy() for tensor in random_batch(config, random)]
    if config.cross_bits:
        keys = random.integers(0, 2**30, 50)[random.integers(0, 50, (BATCH, 39))]
        batch.append(keys.astype(np.int32))
    return batch


def trained(step: TrainNet, batch: Sequence[Array]) -> Outputs:
    return [output.asnumpy() for output in step(*map(Tensor, batch))]


def state(step: TrainNet) -> dict[str, Array]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in step.get_parameters()}


def assert_equal_within_rounding(one: TrainNet, other: TrainNet) -> None:
    wanted = state(other)
    for name, found in state(one).items():
        # Adam moves a weight by its whole learning rate where a gradient is all rounding.
        tolerance = 3.5e-6 if name.startswith(("deep.", "embedding")) else 1e-6
        np.testing.assert_allclose(found, wanted[name], rtol=1e-4, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "real"), [("dense", 7), ("sparse", 1), ("crossed", 15), ("crossed by operators", 7)]
)
def test_a_net_that_fills_batches_learns_what_others_learn_from_the_real_rows(
    kind: str, real: int
) -> None:
    filling, plain = step_of(kind, BATCH), step_of(kind, BATCH, fills_batches=False)
    random = np.random.default_rng(real)
    for _ in range(3):  # full batches, to the last bit
        batch = rows(KINDS[kind], random)
        for found, wanted in zip(trained(filling, batch), trained(plain, batch)):
            np.testing.assert_array_equal(found, wanted)
    wanted_state = state(plain)
    for name, values in state(filling).items():
        np.testing.assert_array_equal(values, wanted_state[name], err_msg=name)

    # Optimizers have state now: a zero gradient alone would still move an id that is no row's.
    alone = step_of(kind, real, fills_batches=False)
    for parameter in alone.get_parameters():
        parameter.set_data(Tensor(wanted_state[parameter.name]))
    for _ in range(3):
        part = [values[:real] for values in rows(KINDS[kind], random)]
        filled, unfilled = trained(filling, filled_up(part, BATCH)), trained(alone, part)
        np.testing.assert_allclose(filled[:2], unfilled[:2], rtol=1e-5)
        np.testing.assert_allclose(filled[2][:real], unfilled[2], atol=1e-5)
    assert_equal_within_rounding(filling, alone)
