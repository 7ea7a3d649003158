"""The training steps of one rank among several: they train on the global batch."""

from __future__ import annotations

from mindspore import Tensor

from src.model.crosses import CrossLearner, TrainStepWithCrosses
from src.model.model_config import ModelConfig
from src.model.train_step import TrainStepWrap
from src.model.wide_and_deep import NetWithLossClass
from src.ranks.exchange import Exchange, RowExchange


class RankTrainStep(TrainStepWrap):
    """``TrainStepWrap`` on one rank's share of a batch, ``batch_size`` rows of N times as many.

    Losses and logits are those of the global batch, the logits rank by rank.

    Args:
        network: The losses to train on.
        config: What ``network`` was made of.
        rank: This rank.
        size: N, how many ranks train the model together.
    """

    def __init__(
        self, network: NetWithLossClass, config: ModelConfig, rank: int, size: int
    ) -> None:
        super().__init__(network, config)
        shapes = [tuple(self.model.wide_bias.shape)]
        shapes += [tuple(weight.shape) for weight in self.adam.layers]
        self.exchange = Exchange(
            rank,
            size,
            config.emb_dim,
            config.batch_size * config.field_size,
            config.batch_size,
            tuple(shapes),
        )

    def whole_batch(
        self,
        id: Tensor,  # noqa: A002
        wide_rows: Tensor,
        deep_rows: Tensor,
        gradients: tuple,  # type: ignore[type-arg]
        wide_loss: Tensor,
        logit: Tensor,
    ) -> tuple:  # type: ignore[type-arg]
        """The global batch: its ids, rows, mean gradients, mean loss and logits."""
        (wide, deep), weights = gradients
        ids, wide, deep, weights, wide_loss, logit = self.exchange(
            id.reshape(-1),
            wide.reshape(-1, 1),
            deep.reshape(self.embedding_shape),
            weights,
            wide_loss,
            logit,
        )
        wide_rows, deep_rows = self.model.rows(ids)
        return ids, wide_rows, deep_rows, ((wide, deep), weights), wide_loss, logit


class RankStepWithCrosses(TrainStepWithCrosses):
    """``TrainStepWithCrosses`` on one rank: every rank learns from the rows of all.

    Of a row only its keys and its label travel. Each rank scores the global batch and moves its
    whole, equal weights by itself.

    Args:
        step: This rank's step of the net; its logits are those of the global batch.
        crosses: The learner of crosses.
        rank: This rank.
        size: N, how many ranks train the model together.
    """

    def __init__(self, step: RankTrainStep, crosses: CrossLearner, rank: int, size: int) -> None:
        super().__init__(step, crosses)
        config = step.model.config
        self.exchange_rows = RowExchange(rank, size, config.batch_size, config.field_size)

    def whole_batch(self, key: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and labels of the global batch, rank by rank."""
        keys, labels = self.exchange_rows(key, label)
        return keys, labels
