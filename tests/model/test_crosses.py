"""The learner of crosses, against the same in NumPy and float64."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from benchmarks.documented.step import DOCUMENTED_CONFIG
from src.features.field_pairs import PAIR_SCALE
from src.model.crosses import (
    CROSS_BETA,
    CrossLearner,
    PredictWithCrosses,
    TrainStepWithCrosses,
)
from src.model.train_step import TrainStepWrap
from src.model.wide_and_deep import NetWithLossClass, WideDeepModel
from src.process.arrays import Array

CONFIG = dataclasses.replace(
    DOCUMENTED_CONFIG,
    batch_size=12,
    vocab_size=100,
    emb_dim=3,
    deep_layer_dim=(8,),
    sparse=True,
    cross_bits=9,  # so few weights that pairs share them
    cross_learning_rate=0.02,
)
Batch = tuple[Array, Array, Array, Array]


@pytest.fixture(autouse=True, scope="module")
def graph_mode() -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


def batches(number: int, seed: int = 3) -> list[Batch]:
    random = np.random.default_rng(seed)
    rows = CONFIG.batch_size
    return [
        (
            random.integers(0, CONFIG.vocab_size, (rows, 39)).astype(np.int32),
            np.ones((rows, 39), np.float32),
            random.integers(0, 2, (rows, 1)).astype(np.float32),
            random.choice(random.integers(0, 2**30, 20), (rows, 39)).astype(np.int32),
        )
        for _ in range(number)
    ]


def tensors(batch: Batch) -> list[Tensor]:
    return [Tensor(values) for values in batch]


class Reference:
    """The learner, row by row and pair by pair."""

    def __init__(self, fields: list[int]) -> None:
        self.weight = np.zeros(1 << CONFIG.cross_bits)
        self.squares = np.zeros(1 << CONFIG.cross_bits)
        self.pairs = list(combinations(fields, 2))

    def learn(self, keys: Array, labels: Array) -> Array:
        places = [
            [(int(row[i]) + int(row[j])) % len(self.weight) for i, j in self.pairs] for row in keys
        ]
        logits = np.array([sum(self.weight[place] for place in row) for row in places])
        gradients = 1 / (1 + np.exp(-logits)) - labels.ravel()
        summed = np.zeros_like(self.weight)
        for row, gradient in zip(places, gradients):
            for place in row:
                self.squares[place] += gradient**2
                summed[place] += gradient
        self.weight -= CONFIG.cross_learning_rate * summed / (CROSS_BETA + np.sqrt(self.squares))
        return logits


@pytest.mark.parametrize("native", [True, False], ids=["native", "operators"])
@pytest.mark.parametrize("fields", ["", "C26, I1,C3"])
def test_it_scores_and_learns_as_the_reference_does(fields: str, native: bool) -> None:
    crosses = CrossLearner(dataclasses.replace(CONFIG, cross_fields=fields))
    assert crosses.native is not None, "make setup compiles it"
    if not native:
        crosses.native = None
    reference = Reference([0, 15, 38] if fields else list(range(39)))

    class Learn(ms.nn.Cell):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.crosses = crosses

        def construct(self, key: Tensor, label: Tensor) -> Tensor:
            return self.crosses.learn(key, label)

    learn = Learn()
    for _, _, label, key in batches(8):
        logit = learn(Tensor(key), Tensor(label)).asnumpy()
        np.testing.assert_allclose(logit.ravel(), reference.learn(key, label), atol=2e-5)
    np.testing.assert_allclose(crosses.weight.asnumpy(), reference.weight, atol=1e-6)
    np.testing.assert_allclose(crosses.accumulator.asnumpy(), reference.squares, rtol=1e-5)


def test_the_net_learns_bit_by_bit_as_without_crosses_and_the_score_is_the_mean() -> None:
    def net() -> TrainStepWrap:
        ms.set_seed(5)
        return TrainStepWrap(NetWithLossClass(WideDeepModel(CONFIG), CONFIG), CONFIG)

    alone, inner, crosses = net(), net(), CrossLearner(CONFIG)
    crossed = TrainStepWithCrosses(inner, crosses)
    reference = Reference(list(range(39)))
    for batch in batches(6):
        plain = [output.asnumpy() for output in alone(*tensors(batch)[:3])]
        both = [output.asnumpy() for output in crossed(*tensors(batch))]
        assert plain[:2] == both[:2]
        mean = (plain[2].ravel() + reference.learn(batch[3], batch[2])) / 2
        np.testing.assert_allclose(both[2].ravel(), mean, atol=2e-5)
    for one, other in zip(alone.get_parameters(), inner.get_parameters()):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())


def test_prediction_is_the_score_that_training_would_give_the_same_rows() -> None:
    ms.set_seed(5)
    model, crosses = WideDeepModel(CONFIG), CrossLearner(CONFIG)
    step = TrainStepWithCrosses(TrainStepWrap(NetWithLossClass(model, CONFIG), CONFIG), crosses)
    predict = PredictWithCrosses(model, crosses)
    for batch in batches(4):
        logit, probability, label = (part.asnumpy() for part in predict(*tensors(batch)))
        np.testing.assert_allclose(logit, step(*tensors(batch))[2].asnumpy(), atol=1e-5)
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), rtol=1e-5)
        np.testing.assert_array_equal(label, batch[2])


def test_the_same_batches_give_the_same_weights_bit_by_bit() -> None:
    def trained() -> Array:
        ms.set_seed(5)
        crosses = CrossLearner(dataclasses.replace(CONFIG, cross_bits=16))
        net = TrainStepWrap(NetWithLossClass(WideDeepModel(CONFIG), CONFIG), CONFIG)
        step = TrainStepWithCrosses(net, crosses)
        for batch in batches(20, seed=8):
            step(*tensors(batch))
        found: Array = crosses.weight.asnumpy()
        return found

    first = trained()
    assert np.count_nonzero(first) > 100
    np.testing.assert_array_equal(first, trained())


def test_products_of_pairs_are_those_of_the_embeddings() -> None:
    config = dataclasses.replace(CONFIG, deep_pairs=True)
    model = WideDeepModel(config)
    assert model.deep[0].weight.shape == (8, 39 * 3 + 741)
    weighted = np.random.default_rng(2).normal(size=(5, 39, 3)).astype(np.float32)
    found = model.products_of_pairs(Tensor(weighted)).asnumpy()
    wanted = [
        [PAIR_SCALE * row[i] @ row[j] for i, j in combinations(range(39), 2)] for row in weighted
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_deep_part_learns_from_products_of_pairs() -> None:
    """Labels that follow from two fields together, and from neither alone."""
    config = dataclasses.replace(
        CONFIG,
        batch_size=200,
        emb_dim=4,
        deep_pairs=True,
        deep_learning_rate=0.01,
        table_optimizer="adagrad",
        table_learning_rate=0.05,
    )
    ms.set_seed(5)
    step = TrainStepWrap(NetWithLossClass(WideDeepModel(config), config), config)
    random = np.random.default_rng(1)
    losses = []
    for _ in range(150):
        ids = np.tile(np.arange(60, 99), (200, 1)).astype(np.int32)
        first, second = random.integers(0, 2, (2, 200))
        ids[:, 0], ids[:, 1] = first, 2 + second
        label = (first ^ second).astype(np.float32).reshape(-1, 1)
        losses.append(float(step(*map(Tensor, (ids, np.ones((200, 39), np.float32), label)))[0]))
    assert losses[0] > 0.6
    assert np.mean(losses[-10:]) < 0.1
