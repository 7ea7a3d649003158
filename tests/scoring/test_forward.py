"""The forward pass in NumPy is MindSpore's, to the last digits."""

from __future__ import annotations

import dataclasses
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from benchmarks.documented.step import DOCUMENTED_CONFIG
from src.features.field_pairs import pairs_of_fields
from src.model.crosses import CrossLearner, PredictWithCrosses
from src.model.model_config import ACTIVATIONS as MINDSPORE_ACTIVATIONS
from src.model.model_config import ModelConfig
from src.model.wide_and_deep import PredictWithSigmoid, WideDeepModel
from src.process.arrays import Array
from src.scoring.forward import ACTIVATIONS, ROWS_AT_ONCE, Crosses, Network, sigmoid

SMALL = dataclasses.replace(
    DOCUMENTED_CONFIG, vocab_size=500, emb_dim=8, deep_layer_dim=(32, 16), deep_pairs=True
)
ROWS = ROWS_AT_ONCE + 44  # two pieces


@pytest.fixture(autouse=True, scope="module")
def graph_mode() -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


def inputs(config: ModelConfig) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(5)
    ids = random.integers(0, config.vocab_size, (ROWS, 39)).astype(np.int32)
    weights = random.normal(1, 0.5, (ROWS, 39)).astype(np.float32)
    keys = random.integers(0, 2**30, (ROWS, 39)).astype(np.int32)
    return ids, weights, keys


def with_random_weights(cell: ms.nn.Cell) -> ms.nn.Cell:
    """Weights that make logits of the size of a trained model's, on both sides of 0."""
    random = np.random.default_rng(3)
    for parameter in cell.get_parameters():
        shape = parameter.shape
        spread = (2 / shape[1]) ** 0.5 if len(shape) == 2 and ".weight" in parameter.name else 0.3
        values = random.normal(0, spread, shape).astype(np.float32)
        parameter.set_data(Tensor(values))
    return cell


def network_of(model: WideDeepModel, crosses: CrossLearner | None) -> Network:
    config = model.config
    pairs = np.array(pairs_of_fields(config.cross_fields), dtype=np.int32)
    return Network(
        wide_weight=model.wide_weight.asnumpy().ravel(),
        wide_bias=model.wide_bias.asnumpy(),
        embedding_table=model.embedding_table.asnumpy(),
        layers=[(layer.weight.asnumpy(), layer.bias.asnumpy()) for layer in model.deep],
        activation=config.deep_layer_act,
        has_pairs=config.deep_pairs,
        crosses=None
        if crosses is None
        else Crosses(crosses.weight.asnumpy(), pairs[:, 0].copy(), pairs[:, 1].copy()),
    )


def assert_equal_logits(config: ModelConfig) -> None:
    model = with_random_weights(WideDeepModel(config))
    crosses = with_random_weights(CrossLearner(config)) if config.cross_bits else None
    ids, weights, keys = inputs(config)
    label = np.zeros((ROWS, 1), np.float32)
    if crosses is None:
        wanted = PredictWithSigmoid(model)(*map(Tensor, (ids, weights, label)))
    else:
        wanted = PredictWithCrosses(model, crosses)(*map(Tensor, (ids, weights, label, keys)))
    logit = network_of(model, crosses).logit(ids, weights, keys)
    assert logit.dtype == np.float32
    np.testing.assert_allclose(logit, wanted[0].asnumpy().ravel(), rtol=0, atol=1e-5)
    # A probability changes by at most a quarter of what its logit changes by.
    np.testing.assert_allclose(sigmoid(logit), wanted[1].asnumpy().ravel(), rtol=0, atol=2.5e-6)
    assert logit.min() < -0.3
    assert logit.max() > 0.3


def test_every_activation_is_there() -> None:
    assert list(ACTIVATIONS) == list(MINDSPORE_ACTIVATIONS)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_logit_is_mindspores_with_every_activation(activation: str) -> None:
    assert_equal_logits(dataclasses.replace(SMALL, deep_layer_act=activation))


@pytest.mark.parametrize(
    "changes",
    [
        {"deep_pairs": False},
        {"cross_bits": 12},
        {"cross_bits": 22, "cross_fields": "I1,C3,C14,C26"},
        {"deep_layer_dim": ()},
        {"emb_dim": 80, "deep_layer_dim": (1024, 512, 256, 128), "deep_pairs": False},
    ],
    ids=["without pairs", "crosses", "crosses of some fields", "one layer", "the default's size"],
)
def test_a_logit_is_mindspores_with_every_shape(changes: dict[str, Any]) -> None:
    assert_equal_logits(dataclasses.replace(SMALL, **changes))


def test_no_rows_have_no_logits() -> None:
    model = with_random_weights(WideDeepModel(SMALL))
    ids, weights, keys = inputs(SMALL)
    assert network_of(model, None).logit(ids[:0], weights[:0], keys[:0]).shape == (0,)


def test_the_sigmoid_of_extreme_logits_is_0_or_1() -> None:
    extreme = np.array([-1e4, -100, 0, 100, 1e4], np.float32)
    np.testing.assert_allclose(sigmoid(extreme), [0, 0, 0.5, 1, 1], atol=1e-30)
