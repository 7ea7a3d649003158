"""The native operators against those of MindSpore, which they stand for."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from benchmarks.documented.step import DOCUMENTED_CONFIG
from src.model import native_operators
from src.model.crosses import CrossLearner, TrainStepWithCrosses
from src.model.model_config import ModelConfig
from src.model.native_operators import is_native
from src.model.networks import TrainNet, make_train_step
from src.model.wide_and_deep import NetWithLossClass, WideDeepModel
from src.process.arrays import Array

ROWS = 20
CONFIG = dataclasses.replace(
    DOCUMENTED_CONFIG,
    batch_size=ROWS,
    vocab_size=300,
    emb_dim=5,
    deep_layer_dim=(8,),
    sparse=True,
    cross_bits=10,
    table_learning_rate=0.01,
    fills_batches=True,
)
WAYS: list[dict[str, Any]] = [
    {"table_optimizer": "adam"},
    {"table_optimizer": "adagrad"},
    {"table_optimizer": "adagrad", "deep_pairs": True},
    {"table_optimizer": "adam", "deep_pairs": True, "emb_dim": 16},
    {"table_optimizer": "adam", "deep_pairs": True, "emb_dim": 37},
    {"table_optimizer": "adam", "sparse": False},
    {"table_optimizer": "adam", "sparse": False, "l2_coef": 0.1, "emb_dim": 37},
    {"table_optimizer": "adam", "sparse": False, "l2_coef": 0.0, "emb_dim": 16},
]
DENSE = WAYS[6]


@pytest.fixture(autouse=True, scope="module")
def graph_mode() -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setattr(native_operators, "NATIVE_LIBRARY", tmp_path / "missing.so")
    return monkeypatch


def made(config: ModelConfig) -> TrainNet:
    ms.set_seed(5)
    crosses = CrossLearner(config)
    return make_train_step(NetWithLossClass(WideDeepModel(config), config), config, crosses)


def batches(number: int, seed: int = 3) -> list[list[Tensor]]:
    """Many ids occur several times, and the last rows of a batch are filler rows."""
    random = np.random.default_rng(seed)
    listed = []
    for _ in range(number):
        ids = np.minimum(random.pareto(0.7, (ROWS, 39)) * 5, CONFIG.vocab_size - 1)
        label = random.integers(0, 2, (ROWS, 1)).astype(np.float32)
        ids[-2:], label[-2:] = ids[0], -1
        weight = random.random((ROWS, 39)).astype(np.float32)
        key = random.integers(0, 2**30, (ROWS, 39)).astype(np.int32)
        listed.append([Tensor(part) for part in (ids.astype(np.int32), weight, label, key)])
    return listed


def trained(step: TrainNet, number: int = 15) -> tuple[list[Array], dict[str, Array]]:
    """(the outputs of all steps, all parameters after them)"""
    outputs = [part.asnumpy() for batch in batches(number) for part in step(*batch)]
    return outputs, {each.name: each.asnumpy().copy() for each in step.get_parameters()}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_training_is_that_of_mindspores_operators(
    way: dict[str, Any], without_library: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, **way)
    by_operators = made(config)
    outputs, parameters = trained(by_operators)
    without_library.undo()
    native = made(config)
    assert native.step.native_rows is not None and native.crosses.native is not None
    assert (native.step.model.native_input is not None) == config.deep_pairs
    native_outputs, native_parameters = trained(native)
    for one, other in zip(outputs, native_outputs):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert parameters.keys() == native_parameters.keys()
    for name, values in parameters.items():
        # Adam moves a weight by a whole step however small its gradient is, rounding included.
        np.testing.assert_allclose(
            values, native_parameters[name], rtol=1e-3, atol=2e-4, err_msg=name
        )
        moved = np.linalg.norm(values.astype(np.float64) - native_parameters[name])
        assert moved <= 1e-4 * np.linalg.norm(values) + 1e-6, name


@pytest.mark.parametrize("way", [WAYS[1], WAYS[2], DENSE], ids=["adagrad", "pairs", "dense"])
def test_the_same_batches_give_the_same_weights_bit_by_bit(way: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **way)
    first, again = trained(made(config))[1], trained(made(config))[1]
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)


def test_rows_of_other_ids_stay_as_they_are_to_the_last_bit() -> None:
    step = made(CONFIG)
    before = {each.name: each.asnumpy().copy() for each, _ in step.row_state()}
    touched = np.unique(np.concatenate([batch[0].asnumpy().ravel() for batch in batches(2)]))
    trained(step, 2)
    for each, _ in step.row_state():
        moved = np.flatnonzero((before[each.name] != each.asnumpy()).any(axis=1))
        assert moved.size and np.isin(moved, touched).all(), each.name


def test_a_dense_step_is_the_same_on_one_cpu_and_on_several_bit_by_bit() -> None:
    config = dataclasses.replace(CONFIG, **DENSE)
    losses, weights = trained(made(config))
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        losses_on_one, weights_on_one = trained(made(config))
    finally:
        os.sched_setaffinity(0, cpus)
    for one, other in zip(losses, losses_on_one):
        np.testing.assert_array_equal(one, other)
    for name, values in weights.items():
        np.testing.assert_array_equal(values, weights_on_one[name], err_msg=name)


@pytest.mark.parametrize("width", [1, 5, 16, 33])
def test_a_deep_input_and_its_gradient_are_those_of_the_operators(
    width: int, without_library: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, emb_dim=width, deep_pairs=True)
    random = np.random.default_rng(1)
    rows = Tensor(random.normal(0, 1, (ROWS, 39, width)).astype(np.float32))
    weight = Tensor(random.random((ROWS, 39, 1)).astype(np.float32))
    factor = Tensor(random.normal(0, 1, (ROWS, 39 * width + 741)).astype(np.float32))

    def found() -> tuple[Array, Array]:
        model = WideDeepModel(config)

        def product(rows: Tensor) -> Tensor:
            return (model.deep_input(rows, weight) * factor).sum()

        of_rows = ops.grad(product)
        return model.deep_input(rows, weight).asnumpy(), of_rows(rows).asnumpy()

    wanted = found()
    without_library.undo()
    assert is_native()
    for one, other in zip(wanted, found()):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_other_devices_and_a_machine_without_the_library_take_the_operators(
    without_library: pytest.MonkeyPatch,
) -> None:
    step = made(dataclasses.replace(CONFIG, deep_pairs=True))
    assert isinstance(step, TrainStepWithCrosses)
    assert step.step.native_rows is step.step.model.native_input is step.crosses.native is None
    without_library.undo()
    assert is_native()
    without_library.setattr("src.model.native_operators.ms.get_context", lambda _: "GPU")
    assert not is_native()
