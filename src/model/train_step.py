"""One step of training: losses, one backward pass, both optimizers.

Shapes are those of ``wide_and_deep.py``.
"""

from __future__ import annotations

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src.model.model_config import ModelConfig, computes_in_float16
from src.model.native_operators import is_native
from src.model.optimizers import (
    Adam,
    Done,
    Ftrl,
    NativeRows,
    SumOverDuplicates,
    TableAdagrad,
    TableAdam,
)
from src.model.wide_and_deep import NetWithLossClass


class TrainStepWrap(nn.Cell):  # type: ignore[misc]
    """One step of training, as `RecModel` wants it: losses, one backward pass, both optimizers.

    The documented example runs two backward passes, one from each loss. But the losses differ by
    the L2 term alone. No wide weight is in that term, and its gradient can be written down. So one
    backward pass, from wide_loss, is enough.

    All state of training is in the parameters of this cell. A checkpoint of them is enough to
    continue exactly.

    Args:
        network: the losses to train on; its parameters are moved in place.
        config: what `network` was made of.
        sens: loss scale; the loss is multiplied by it before the backward pass and the gradients
            divided by it after, which keeps small gradients from vanishing in float16. In float32
            it would change nothing, so it is left out there.
    """

    def __init__(
        self,
        network: NetWithLossClass,
        config: ModelConfig,
        sens: float = 1024.0,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.model = network.network
        self.embedding_shape = (-1, config.emb_dim)
        self.sparse = config.sparse
        self.sens = float(sens) if computes_in_float16(config) else 1.0
        self.ftrl = Ftrl(self.model)
        self.adam = Adam(self.model)
        is_adam = config.table_optimizer == "adam"
        self.table = TableAdam(self.model, network.l2_coef) if is_adam else TableAdagrad(self.model)
        self.native_rows = (
            NativeRows(self.ftrl, self.table, not self.sparse) if is_native() else None
        )
        # It sums up the squares of the table's L2 term while it moves the table.
        self.l2_comes_with_update = self.native_rows is not None and not self.sparse
        self.sum_over_duplicates = SumOverDuplicates()
        self.hyper_map = ops.HyperMap()
        weights = ParameterTuple((self.model.wide_bias, *self.adam.layers))
        self.gradients = ops.value_and_grad(self.scaled_loss, (0, 1), weights, has_aux=True)

    def construct(
        self,
        id: Tensor,  # noqa: A002
        weight: Tensor,
        label: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Train on one batch.

        Args:
            id: int32 [b, f], row numbers of the vocabulary.
            weight: float32 [b, f].
            label: float32 [b, 1], 1 for a click, negative for a filler row.

        Returns:
            wide_loss [], deep_loss [] and logit [b, 1], float32, all as of before the update: every
            row is scored by a model that has not seen it.
        """
        wide_rows, deep_rows = self.model.rows(id)  # [b, f, 1], [b, f, e]
        values, gradients = self.gradients(wide_rows, deep_rows, weight, label)
        _, wide_loss, logit = values
        id, wide_rows, deep_rows, gradients, wide_loss, logit = self.whole_batch(  # noqa: A001
            id, wide_rows, deep_rows, gradients, wide_loss, logit
        )
        deep_loss = wide_loss
        if not self.l2_comes_with_update:
            deep_loss = self.network.deep_loss(wide_loss)
        # From here on parameters change in place: every read must come before.
        id = ops.depend(id, (deep_loss, gradients))  # noqa: A001
        done = self.update(id.reshape(-1), wide_rows, deep_rows, self.unscaled(gradients))
        if self.l2_comes_with_update:
            deep_loss = self.network.with_l2(wide_loss, done[-1].reshape(()))
        return ops.depend(wide_loss, done), deep_loss, logit

    def row_state(self) -> list[tuple[Parameter, float]]:
        """Every parameter that has a row for each id, with the value of an untrained row.

        An untrained embedding is 0 and not random: it adds nothing to a score until it has learnt.
        """
        return [
            (self.model.wide_weight, 0.0),
            (self.ftrl.accumulator[0], self.ftrl.initial_accumulator),
            (self.ftrl.linear[0], 0.0),
            (self.model.embedding_table, 0.0),
            *self.table.row_state(),
        ]

    def scaled_loss(
        self, wide_rows: Tensor, deep_rows: Tensor, weight: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(what is differentiated, wide_loss, logit)."""
        wide_loss, logit = self.network.wide_loss(wide_rows, deep_rows, weight, label)
        return wide_loss * self.sens, wide_loss, logit

    def whole_batch(
        self,
        id: Tensor,  # noqa: A002
        wide_rows: Tensor,
        deep_rows: Tensor,
        gradients: tuple,  # type: ignore[type-arg]
        wide_loss: Tensor,
        logit: Tensor,
    ) -> tuple:  # type: ignore[type-arg]
        """What the update goes on with: the batch as it is, unless it is a part of a larger one."""
        return id, wide_rows, deep_rows, gradients, wide_loss, logit

    def unscaled(self, gradients: tuple) -> tuple:  # type: ignore[type-arg]
        """Gradients of the loss itself: ((wide rows, deep rows), (wide bias, layers…))."""
        if self.sens == 1.0:
            return gradients
        gradients = self.hyper_map(ops.partial(ops.mul, 1 / self.sens), gradients)
        return gradients

    def update(
        self,
        ids: Tensor,
        wide_rows: Tensor,
        deep_rows: Tensor,
        gradients: tuple,  # type: ignore[type-arg]
    ) -> Done:
        """Let both optimizers move their parameters; ids are [n] here."""
        (wide_gradient, deep_gradient), weight_gradients = gradients
        wide_rows = wide_rows.reshape(-1, 1)  # [n, 1], as the gradients from here on
        deep_rows = deep_rows.reshape(self.embedding_shape)  # [n, e]
        wide_gradient = wide_gradient.reshape(-1, 1)
        deep_gradient = deep_gradient.reshape(self.embedding_shape)
        powers = self.adam.advance()
        done = self.ftrl.bias(weight_gradients[0])
        done += self.adam.dense_layers(powers, weight_gradients[1:])
        if self.native_rows is not None:
            done += (self.native_rows(powers, ids, wide_gradient, deep_gradient),)
        elif self.sparse:
            wide_sum, deep_sum = self.sum_over_duplicates(ids, wide_gradient, deep_gradient)
            done += self.ftrl.touched_rows(ids, wide_rows, wide_sum)
            done += self.table.touched_rows(powers, ids, deep_rows, deep_sum)
        else:
            (deep_sum,) = self.sum_over_duplicates(ids, deep_gradient)
            done += self.ftrl.every_row(ids, wide_gradient)
            done += self.table.every_row(powers, ids, deep_rows, deep_sum)
        return done
