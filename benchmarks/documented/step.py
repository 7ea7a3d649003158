"""The training step as the example's page describes it, for comparison.

It has two losses and two backward passes. FTRL trains the wide weights on wide_loss. Adam trains
all other weights on deep_loss, whose L2 term is part of the graph. The model itself is the one of
`src.model`, so that both steps can start from equal weights.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from src.model.model_config import ModelConfig
from src.model.train_step import TrainStepWrap
from src.model.wide_and_deep import NetWithLossClass, WideDeepModel

DOCUMENTED_CONFIG = ModelConfig(
    batch_size=100,
    field_size=39,
    vocab_size=200_000,
    emb_dim=80,
    deep_layer_dim=(1024, 512, 256, 128),
    deep_layer_act="relu",
    emb_init="normal",
    weight_bias_init="normal",
    l2_coef=8e-5,
    keep_prob=1.0,
    dropout_flag=False,
    use_mixed_precision=True,
    sparse=False,
    wide_init="normal",
    wide_learning_rate=5e-2,
    wide_initial_accumulator=1.0,
    deep_learning_rate=3.5e-4,
    table_optimizer="adam",
    table_learning_rate=3.5e-4,
)


class DocumentedLosses(nn.Cell):  # type: ignore[misc]
    """(wide_loss, deep_loss), the L2 term written as the sum of a squared table."""

    def __init__(self, model: WideDeepModel, l2_coef: float) -> None:
        super().__init__(auto_prefix=False)
        self.model = model
        self.l2_coef = l2_coef
        self.cross_entropy = ops.SigmoidCrossEntropyWithLogits()
        self.mean = ops.ReduceMean()
        self.sum = ops.ReduceSum()
        self.square = ops.Square()

    def construct(
        self,
        id: Tensor,  # noqa: A002
        weight: Tensor,
        label: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Losses, [] each, of id, weight [b, f] and label [b, 1]."""
        wide_loss = self.mean(self.cross_entropy(self.model(id, weight), label))
        l2 = self.sum(self.square(self.model.embedding_table)) / 2
        return wide_loss, wide_loss + self.l2_coef * l2


class OneLoss(nn.Cell):  # type: ignore[misc]
    """One of several outputs."""

    def __init__(self, losses: nn.Cell, output: int) -> None:
        super().__init__(auto_prefix=False)
        self.losses = losses
        self.output = output

    def construct(self, id: Tensor, weight: Tensor, label: Tensor) -> Tensor:  # noqa: A002
        """The chosen loss, []."""
        return self.losses(id, weight, label)[self.output]


class DocumentedTrainStep(nn.Cell):  # type: ignore[misc]
    """(id, weight, label) → (wide_loss, deep_loss), with MindSpore's own optimizers."""

    def __init__(self, model: WideDeepModel, config: ModelConfig, sens: float = 1024.0) -> None:
        super().__init__(auto_prefix=False)
        self.losses = DocumentedLosses(model, config.l2_coef)
        parameters = model.trainable_params()
        self.wide = ParameterTuple([p for p in parameters if p.name.startswith("wide_")])
        self.deep = ParameterTuple([p for p in parameters if not p.name.startswith("wide_")])
        self.ftrl = nn.FTRL(
            self.wide, initial_accum=1.0, learning_rate=5e-2, l1=1e-8, l2=1e-8, loss_scale=sens
        )
        self.adam = nn.Adam(self.deep, learning_rate=3.5e-4, eps=1e-8, loss_scale=sens)
        for shared in (self.ftrl.global_step, self.ftrl.learning_rate):
            if isinstance(shared, ms.Parameter):
                shared.name = f"ftrl_{shared.name}"  # Adam has parameters of the same names
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)
        self.wide_loss, self.deep_loss = OneLoss(self.losses, 0), OneLoss(self.losses, 1)
        self.sens = sens

    def construct(
        self,
        id: Tensor,  # noqa: A002
        weight: Tensor,
        label: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Train on one batch; the losses are those before the update."""
        wide_loss, deep_loss = self.losses(id, weight, label)
        wide_sens = ops.fill(ops.dtype(wide_loss), ops.shape(wide_loss), self.sens)
        deep_sens = ops.fill(ops.dtype(deep_loss), ops.shape(deep_loss), self.sens)
        wide = self.gradient(self.wide_loss, self.wide)(id, weight, label, wide_sens)
        deep = self.gradient(self.deep_loss, self.deep)(id, weight, label, deep_sens)
        # Both backward passes start from the same weights: neither optimizer runs in between.
        wide = ops.depend(wide, (wide_loss, deep_loss, deep))
        deep = ops.depend(deep, (wide_loss, deep_loss, wide))
        wide_loss = ops.depend(wide_loss, self.ftrl(wide))
        return wide_loss, ops.depend(deep_loss, self.adam(deep))


def documented_step(config: ModelConfig, seed: int) -> DocumentedTrainStep:
    """The documented step on a new model, whose weights depend on the seed."""
    ms.set_seed(seed)
    step = DocumentedTrainStep(WideDeepModel(config), config)
    step.set_train()
    return step


def own_step(config: ModelConfig, seed: int) -> TrainStepWrap:
    """This project's step; equal seeds give it the weights of `documented_step`."""
    ms.set_seed(seed)
    step = TrainStepWrap(NetWithLossClass(WideDeepModel(config), config), config)
    step.set_train()
    return step


def random_batch(config: ModelConfig, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A batch like a click log's: skewed ids, some of them repeated, and a quarter clicks."""
    shape = (config.batch_size, config.field_size)
    skewed = random.zipf(1.2, shape) * 7919 % config.vocab_size
    label = random.random((config.batch_size, 1)) < 0.25
    return (
        Tensor(skewed.astype(np.int32)),
        Tensor(random.random(shape, dtype=np.float32)),
        Tensor(label.astype(np.float32)),
    )
