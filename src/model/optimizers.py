"""The optimizers: FTRL for the wide weights, Adam for the layers, Adam or Adagrad for the table.

Both FTRL and the table's optimizer know two ways to move a table of v rows of which a batch has
touched at most n. *Every row* is the dense, documented way. *Touched rows* is the sparse, lazy way.
A batch may hold an id several times, so the gradients of equal ids are summed up first.

What moves parameters returns the results of the operators that do it. A graph drops what nothing
depends on, however much it does on the side.

Shapes are those of ``wide_and_deep.py``.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer

from src.model.native_operators import REAL, WHOLE, native_operator
from src.model.wide_and_deep import WideDeepModel

WIDE_L1, WIDE_L2 = 1e-8, 1e-8  # FTRL, on wide_loss
ADAM_BETA1, ADAM_BETA2, ADAM_EPS = 0.9, 0.999, 1e-8  # Adam, on deep_loss
ADAGRAD_INITIAL_ACCUMULATOR = 1e-6  # far below a squared gradient: the first step is a full one

Done = tuple[Tensor, ...]
NOTHING: Done = ()  # a graph can't hold annotated assignments, so it stands here


class SumOverDuplicates(nn.Cell):  # type: ignore[misc]
    """Gives each of the n ids of a batch the gradient of its vocabulary row: [n, k] → [n, k].

    Equal ids get equal sums, hence equal new values: it does not matter which is written last. So
    no shape here depends on how many ids are distinct.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number_distinct = ops.UniqueWithPad()
        self.segment_sum = ops.UnsortedSegmentSum()
        self.gather = ops.Gather()

    def construct(self, ids: Tensor, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Sum gradients of shape [n, k] over equal ids [n]."""
        n = ids.shape[0]
        _, segment = self.number_distinct(ids, 0)  # [n], in 0 .. number of distinct ids - 1
        summed = NOTHING
        for gradient in gradients:
            sums = self.segment_sum(gradient, segment, n)
            summed += (self.gather(sums, segment, 0),)
        return summed


class Ftrl(nn.Cell):  # type: ignore[misc]
    """FTRL-proximal for the wide weights and the wide bias.

    a' = a + g²;  z' = z + g - w · (√a' - √a) / lr
    w' = (sign(z')·l1 - z') / (√a' / lr + 2·l2), or 0 where |z'| <= l1

    z (`linear`) starts at 0, also where w does not. So in the dense way the first step sets all
    weights to 0 that its batch does not touch.
    """

    def __init__(self, network: WideDeepModel) -> None:
        super().__init__()
        config = network.config
        self.vocab_size = config.vocab_size
        self.lr = config.wide_learning_rate
        self.initial_accumulator = config.wide_initial_accumulator
        self.wide_weight, self.wide_bias = network.wide_weight, network.wide_bias
        wide = ParameterTuple((self.wide_weight, self.wide_bias))
        self.accumulator = wide.clone(prefix="ftrl_accumulator", init=self.initial_accumulator)  # a
        self.linear = wide.clone(prefix="ftrl_linear", init="zeros")  # z
        self.apply = ops.ApplyFtrl()
        self.segment_sum = ops.UnsortedSegmentSum()
        self.gather = ops.Gather()
        self.scatter = ops.ScatterUpdate()

    def bias(self, gradient: Tensor) -> Done:
        """Move the bias by its gradient [1]."""
        state = (self.wide_bias, self.accumulator[1], self.linear[1])
        return (self.apply(*state, gradient, self.lr, WIDE_L1, WIDE_L2, -0.5),)

    def every_row(self, ids: Tensor, gradient: Tensor) -> Done:
        """Move all v weights, those at `ids` [n] by `gradient` [n, 1], per occurrence."""
        gradient = self.segment_sum(gradient, ids, self.vocab_size)  # [v, 1], small enough
        state = (self.wide_weight, self.accumulator[0], self.linear[0])
        return (self.apply(*state, gradient, self.lr, WIDE_L1, WIDE_L2, -0.5),)

    def touched_rows(self, ids: Tensor, rows: Tensor, gradient: Tensor) -> Done:
        """Move only the weights at `ids` [n]: `rows` [n, 1], by `gradient` [n, 1], summed up."""
        old = self.gather(self.accumulator[0], ids, 0)
        new = old + gradient * gradient
        root = ops.sqrt(new) / self.lr
        z = self.gather(self.linear[0], ids, 0) + gradient - rows * (root - ops.sqrt(old) / self.lr)
        w = ops.sign(z) * ops.relu(ops.abs(z) - WIDE_L1) / -(root + 2 * WIDE_L2)
        return (
            self.scatter(self.wide_weight, ids, w),
            self.scatter(self.accumulator[0], ids, new),
            self.scatter(self.linear[0], ids, z),
        )


class Adam(nn.Cell):  # type: ignore[misc]
    """Adam for the dense layers.

    m = β1·m + (1-β1)·g;  v = β2·v + (1-β2)·g²;  p -= lr_t · m / (sqrt(v) + eps)
    with lr_t = lr · sqrt(1 - β2^t) / (1 - β1^t).
    """

    def __init__(self, network: WideDeepModel) -> None:
        super().__init__()
        self.lr = network.config.deep_learning_rate
        self.layers = ParameterTuple(network.deep.trainable_params())
        self.m = self.layers.clone(prefix="adam_m", init="zeros")
        self.v = self.layers.clone(prefix="adam_v", init="zeros")
        self.beta1_power = Parameter(Tensor(1.0, ms.float32), name="adam_beta1_power")
        self.beta2_power = Parameter(Tensor(1.0, ms.float32), name="adam_beta2_power")
        self.apply = ops.Adam()

    def advance(self) -> tuple[Tensor, Tensor]:
        """Count the step: (β1^t, β2^t)."""
        beta1_power = self.beta1_power * ADAM_BETA1
        beta2_power = self.beta2_power * ADAM_BETA2
        self.beta1_power = beta1_power
        self.beta2_power = beta2_power
        return beta1_power, beta2_power

    def dense_layers(self, powers: tuple[Tensor, Tensor], gradients: tuple[Tensor, ...]) -> Done:
        """Move all layers' weights and biases, by a gradient each."""
        factors = powers + (self.lr, ADAM_BETA1, ADAM_BETA2, ADAM_EPS)
        done = NOTHING
        for p, m, v, gradient in zip(self.layers, self.m, self.v, gradients):
            done += (self.apply(p, m, v, *factors, gradient),)
        return done


class TableAdam(nn.Cell):  # type: ignore[misc]
    """Adam for the embedding table; formulas as for `Adam`, whose step count it goes by.

    The table's gradient is l2_coef · table, plus the loss's gradient in at most n of its v rows.
    Adam does not depend on the unit of g. With g/c for g and eps/c for eps, m and v become m/c and
    v/c², and p moves the same. In the unit c = l2_coef the gradient of an untouched row *is* the
    row. So the 64 MB of a dense gradient need neither be made nor read. That saves half the memory
    traffic of the table's update, which is the larger part of a dense step. Beware: the table's
    state is in the unit of the l2_coef that it was trained with (1 where there is no L2 term).
    """

    def __init__(self, network: WideDeepModel, l2_coef: float) -> None:
        super().__init__()
        self.lr = network.config.table_learning_rate
        self.has_l2 = l2_coef > 0
        self.unit = l2_coef if self.has_l2 else 1.0
        self.table = network.embedding_table
        self.m, self.v = (
            ParameterTuple((self.table,)).clone(prefix=prefix, init="zeros")[0]
            for prefix in ("adam_m", "adam_v")
        )
        self.apply = ops.Adam()
        self.gather = ops.Gather()
        self.scatter = ops.ScatterUpdate()

    def row_state(self) -> list[tuple[Parameter, float]]:
        """The state that has a row for each id, and its value where an id is fresh."""
        return [(self.m, 0.0), (self.v, 0.0)]

    def every_row(
        self, powers: tuple[Tensor, Tensor], ids: Tensor, rows: Tensor, gradient: Tensor
    ) -> Done:
        """Move all v rows, those at `ids` [n] by `gradient` [n, e] as well as by L2.

        The touched rows are worked out apart, all rows are moved as though none were touched, and
        then the touched rows are put right.
        """
        if self.has_l2:
            gradient = gradient / self.unit + rows
        moved = self._moved(powers, ids, rows, gradient)
        lr = ops.depend(Tensor(self.lr, ms.float32), moved)  # read the old rows first
        factors = powers + (lr, ADAM_BETA1, ADAM_BETA2, ADAM_EPS / self.unit)
        untouched = self.table if self.has_l2 else ops.zeros_like(self.table)  # their gradient
        done = self.apply(self.table, self.m, self.v, *factors, untouched)
        return self._write(ops.depend(ids, done), moved)

    def touched_rows(
        self, powers: tuple[Tensor, Tensor], ids: Tensor, rows: Tensor, gradient: Tensor
    ) -> Done:
        """Move only the rows at `ids` [n]: `rows` [n, e], by `gradient` [n, e]."""
        return self._write(ids, self._moved(powers, ids, rows, gradient))

    def _moved(
        self, powers: tuple[Tensor, Tensor], ids: Tensor, rows: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New (rows, m, v) of the touched rows, [n, e] each."""
        m = self.gather(self.m, ids, 0) * ADAM_BETA1 + gradient * (1 - ADAM_BETA1)
        v = self.gather(self.v, ids, 0) * ADAM_BETA2 + gradient * gradient * (1 - ADAM_BETA2)
        lr_t = self.lr * ops.sqrt(1 - powers[1]) / (1 - powers[0])
        return rows - lr_t * (m / (ops.sqrt(v) + ADAM_EPS / self.unit)), m, v

    def _write(self, ids: Tensor, moved: tuple[Tensor, Tensor, Tensor]) -> Done:
        return (
            self.scatter(self.table, ids, moved[0]),
            self.scatter(self.m, ids, moved[1]),
            self.scatter(self.v, ids, moved[2]),
        )


class TableAdagrad(nn.Cell):  # type: ignore[misc]
    """Adagrad for the embedding table, with one learning rate for each row.

    a' = a + mean(g²) over the row;  row -= lr · g / √a'

    An id that comes for the first time moves by lr, however small its gradient is. An id that comes
    often moves less and less. The state is one number per row; Adam's is 2·e numbers.
    """

    def __init__(self, network: WideDeepModel) -> None:
        super().__init__()
        self.lr = network.config.table_learning_rate
        self.table = network.embedding_table
        start = initializer(ADAGRAD_INITIAL_ACCUMULATOR, (network.config.vocab_size, 1), ms.float32)
        self.accumulator = Parameter(start, name="adagrad_accumulator.embedding_table")
        self.gather = ops.Gather()
        self.scatter = ops.ScatterUpdate()

    def row_state(self) -> list[tuple[Parameter, float]]:
        """The state that has a row for each id, and its value where an id is fresh."""
        return [(self.accumulator, ADAGRAD_INITIAL_ACCUMULATOR)]

    def touched_rows(
        self, powers: tuple[Tensor, Tensor], ids: Tensor, rows: Tensor, gradient: Tensor
    ) -> Done:
        """Move the rows at `ids` [n]: `rows` [n, e], by `gradient` [n, e]; powers are not used."""
        new = self.gather(self.accumulator, ids, 0) + (gradient * gradient).mean(1, keep_dims=True)
        moved = rows - self.lr * gradient / ops.sqrt(new)
        return (
            self.scatter(self.table, ids, moved),
            self.scatter(self.accumulator, ids, new),
        )


class NativeRows(nn.Cell):  # type: ignore[misc]
    """The update of both optimizers as one operator, with the sums over equal ids.

    Args:
        ftrl: The optimizer of the wide weights.
        table: That of the embedding table.
        every: Whether it moves every row and not only those touched; Adam alone can.
    """

    def __init__(self, ftrl: Ftrl, table: TableAdam | TableAdagrad, every: bool) -> None:
        super().__init__()
        wide = (ftrl.wide_weight, ftrl.accumulator[0], ftrl.linear[0])
        self.rows = ParameterTuple((*wide, table.table, *(state for state, _ in table.row_state())))
        self.is_adam = isinstance(table, TableAdam)
        settings = [ftrl.lr, WIDE_L1, WIDE_L2, table.lr]
        if isinstance(table, TableAdam):
            settings += [ADAM_BETA1, ADAM_BETA2, ADAM_EPS / table.unit]
            settings += [table.unit, float(table.has_l2)] if every else []
        self.settings = Tensor(np.array(settings, np.float32))
        names = ["wide_weight", "wide_accumulator", "wide_linear", "table", "first", "second"]
        inputs = dict.fromkeys(names if self.is_adam else names[:-1], REAL)
        inputs |= {"ids": WHOLE, "wide_gradient": REAL, "table_gradient": REAL}
        powers = ("beta1_power", "beta2_power") if self.is_adam else ()
        inputs |= dict.fromkeys((*powers, "settings"), REAL)
        name = "LearnRowsByAdam" if self.is_adam else "LearnRowsByAdagrad"
        if every:
            name = "LearnEveryRowByAdam"
        self.learn = native_operator(name, inputs, REAL if every else WHOLE, lambda *shapes: (1,))

    def construct(
        self,
        powers: tuple[Tensor, Tensor],
        ids: Tensor,
        wide_gradient: Tensor,
        table_gradient: Tensor,
    ) -> Tensor:
        """Move the rows at `ids` [n] by gradients [n, 1] and [n, e], per occurrence.

        Returns:
            What the operator tells, [1]: how many ids are distinct. Where it moves every row, half
            the sum of the table's squares before.
        """
        gradients = (ids, wide_gradient, table_gradient)
        if self.is_adam:
            return self.learn(*self.rows, *gradients, *powers, self.settings)
        return self.learn(*self.rows, *gradients, self.settings)
