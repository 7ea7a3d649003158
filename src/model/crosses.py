"""A learner of crosses beside the net: a linear model over all pairs of a row's fields.

The net adds up what each field says. Two values together can mean more than the sum of both, and a
weight for each pair learns that at once. This learner has a loss and an optimizer of its own: both
learn better apart than with one loss for both. The score of a row is the mean of the two logits.

Shapes are those of ``wide_and_deep.py``; p is the number of pairs, 741 for 39 fields.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from src.features.field_pairs import pairs_of_fields
from src.model.model_config import ModelConfig
from src.model.native_operators import REAL, WHOLE, is_native, native_operator
from src.model.train_step import TrainStepWrap
from src.model.wide_and_deep import WideDeepModel

CROSS_BETA = 0.3  # FTRL's β: the smaller, the larger the first step of a pair


def native_step() -> ops.Custom | None:
    """The step as one operator; None where there are no native ones.

    It changes the weights and the accumulator in place.
    """
    if not is_native():
        return None
    inputs = {
        "weight": REAL,
        "accumulator": REAL,
        "key": WHOLE,
        "label": REAL,
        "left": WHOLE,
        "right": WHOLE,
        "settings": REAL,
    }
    return native_operator("LearnCrosses", inputs, REAL, lambda *shapes: shapes[3])


class CrossLearner(nn.Cell):  # type: ignore[misc]
    """logit = Σ weight[(key_i + key_j) mod 2^cross_bits] over the pairs of fields i < j.

    Keys are hashes (see ``field_keys``), so their sums are too. FTRL-proximal without l1 and l2
    (McMahan et al., "Ad click prediction: a view from the trenches", 2013) learns the weights. Its
    z then follows from the weight and need not be kept:

    a' = a + Σ g²;  w' = w - lr · Σ g / (β + √a')

    The sums are over the occurrences of a weight in the batch. g = σ(logit) - label is the gradient
    of the row's own loss, and 0 for a filler row.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = 1 << config.cross_bits
        self.weight = Parameter(initializer("zeros", (size,), ms.float32), name="cross_weight")
        self.accumulator = Parameter(
            initializer("zeros", (size,), ms.float32), name="cross_accumulator"
        )
        pairs = np.array(pairs_of_fields(config.cross_fields), dtype=np.int32)
        self.left, self.right = Tensor(pairs[:, 0].copy()), Tensor(pairs[:, 1].copy())
        self.mask = Tensor(size - 1, ms.int32)
        self.lr = config.cross_learning_rate
        self.pairs = len(pairs)
        self.fills_batches = config.fills_batches
        self.native = native_step()
        self.settings = Tensor(np.array([self.lr, CROSS_BETA], np.float32))
        self.gather = ops.Gather()
        self.and_bits = ops.BitwiseAnd()
        self.add_at = ops.ScatterAdd()
        self.sigmoid = ops.Sigmoid()

    def construct(self, key: Tensor) -> Tensor:
        """Score rows: key int32 [b, f] → the logit, float32 [b, 1]."""
        return self.logit(self.places(key))

    def places(self, key: Tensor) -> Tensor:
        """Where the weights of the rows' pairs are: int32 [b, f] → int32 [b · p]."""
        sums = self.gather(key, self.left, 1) + self.gather(key, self.right, 1)
        return self.and_bits(sums, self.mask).reshape(-1)

    def logit(self, places: Tensor) -> Tensor:
        """The sum of each row's weights, [b, 1]."""
        return self.gather(self.weight, places, 0).reshape((-1, self.pairs)).sum(1, keepdims=True)

    def learn(self, key: Tensor, label: Tensor) -> Tensor:
        """Score rows and learn from them.

        Args:
            key: int32 [b, f].
            label: float32 [b, 1], negative for a filler row.

        Returns:
            The logit before learning, float32 [b, 1].
        """
        if self.native is None:
            return self.learn_with_operators(key, label)
        return self.native(
            self.weight, self.accumulator, key, label, self.left, self.right, self.settings
        )

    def learn_with_operators(self, key: Tensor, label: Tensor) -> Tensor:
        """The same by operators that MindSpore has on every device."""
        places = self.places(key)
        logit = self.logit(places)
        gradient = self.sigmoid(logit) - label  # [b, 1]
        if self.fills_batches:
            gradient = gradient * (label >= 0).astype(ms.float32)
        squares = self.of_pairs(gradient * gradient)
        counted = self.add_at(self.accumulator, places, squares)
        root = ops.sqrt(self.gather(ops.depend(self.accumulator, counted), places, 0))
        steps = self.of_pairs(gradient * -self.lr) / (root + CROSS_BETA)
        return ops.depend(logit, self.add_at(self.weight, places, steps))

    def of_pairs(self, values: Tensor) -> Tensor:
        """A number of each row for each of its pairs: [b, 1] → [b · p]."""
        return ops.broadcast_to(values, (values.shape[0], self.pairs)).reshape(-1)


class TrainStepWithCrosses(nn.Cell):  # type: ignore[misc]
    """One step of the net and of the learner of crosses.

    Args:
        step: The net's own step.
        crosses: The learner.
    """

    def __init__(self, step: TrainStepWrap, crosses: CrossLearner) -> None:
        super().__init__(auto_prefix=False)
        self.step = step
        self.crosses = crosses

    def construct(
        self,
        id: Tensor,  # noqa: A002
        weight: Tensor,
        label: Tensor,
        key: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Train on one batch.

        Args:
            id: int32 [b, f].
            weight: float32 [b, f].
            label: float32 [b, 1], negative for a filler row.
            key: int32 [b, f].

        Returns:
            The net's wide_loss [] and deep_loss [], and the mean of both logits [b, 1].
        """
        wide_loss, deep_loss, logit = self.step(id, weight, label)
        key, label = self.whole_batch(key, label)
        return wide_loss, deep_loss, (logit + self.crosses.learn(key, label)) * 0.5

    def whole_batch(self, key: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """What is learnt from: the batch as it is, unless it is a part of a larger one."""
        return key, label

    def row_state(self) -> list[tuple[Parameter, float]]:
        """See ``TrainStepWrap.row_state``; a cross has no row of an id."""
        return self.step.row_state()


class PredictWithCrosses(nn.Cell):  # type: ignore[misc]
    """The evaluation network of a net with crosses."""

    def __init__(self, network: WideDeepModel, crosses: CrossLearner) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.crosses = crosses
        self.sigmoid = ops.Sigmoid()

    def construct(
        self,
        id: Tensor,  # noqa: A002
        weight: Tensor,
        label: Tensor,
        key: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(logit, probability of a click, label), each float32 [b, 1]."""
        logit = (self.network(id, weight) + self.crosses(key)) * 0.5
        return logit, self.sigmoid(logit), label
