"""The Wide & Deep model, its two losses and its training step, for MindSpore in graph mode.

Wide & Deep scores a click row twice and adds the two up: a linear model over the row's ids (wide,
it remembers) and a small neural net over their embeddings (deep, it generalises). Each half has
its own optimizer: FTRL for the wide weights, Adam for the rest, or Adagrad for the embeddings and
Adam for the layers above them. Shapes below use

    b = batch_size (100)      f = field_size (39)      v = vocab_size (200,000)
    e = emb_dim (80)          n = b * f, the ids of a batch, duplicates included

The file reads top to bottom: configuration, forward pass, losses, optimizers, training step.
Parameters keep the names given here in every checkpoint, whichever cell wraps the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, prod

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer

from src.exchange import Exchange

WIDE_L1, WIDE_L2 = 1e-8, 1e-8  # FTRL, on wide_loss
ADAM_BETA1, ADAM_BETA2, ADAM_EPS = 0.9, 0.999, 1e-8  # Adam, on deep_loss
ADAGRAD_INITIAL_ACCUMULATOR = 1e-6  # far below a squared gradient: the first step is a full one

ACTIVATIONS = {
    "relu": ops.ReLU,
    "relu6": ops.ReLU6,
    "tanh": ops.Tanh,
    "sigmoid": ops.Sigmoid,
    "elu": ops.Elu,
    "gelu": ops.GeLU,
}
TABLE_OPTIMIZERS = ("adam", "adagrad")
INITIALIZERS = (
    "normal",  # sigma 0.01
    "truncatednormal",  # sigma 0.01, cut at two sigma
    "uniform",  # -0.07 .. 0.07
    "zeros",
    "ones",
    "xavier_uniform",
    "he_uniform",
    "he_normal",
)


@dataclass(frozen=True)
class ModelConfig:
    """What shapes the model; every value comes from the configuration file, so none has a default.

    Attributes:
        batch_size: rows per step, b.
        field_size: ids per row, f.
        vocab_size: rows of the wide weights and of the embedding table, v.
        emb_dim: width of an embedding, e.
        deep_layer_dim: widths of the hidden layers; the one-wide output layer is added to them.
        deep_layer_act: activation of the hidden layers, a key of `ACTIVATIONS`.
        emb_init: initializer of the embedding table, one of `INITIALIZERS`.
        wide_init: initializer of the wide weights and the wide bias.
        weight_bias_init: initializer of the dense layers' weights and biases.
        l2_coef: weight of the embedding table's L2 term in `deep_loss`; unused when `sparse`.
        keep_prob: probability that an input of a dense layer survives dropout.
        dropout_flag: whether dropout is applied while training.
        use_mixed_precision: compute the dense layers in float16 where that pays, see
            `computes_in_float16`.
        sparse: update only the embeddings that a batch has touched, and drop the L2 term.
        wide_learning_rate: of FTRL.
        wide_initial_accumulator: FTRL's squared gradients at the start; gradients are those of a
            batch's mean loss, so 1 is slow for an id that one row of a hundred has.
        deep_learning_rate: of Adam for the dense layers.
        table_optimizer: what moves the embedding table, one of `TABLE_OPTIMIZERS`; `adagrad` needs
            `sparse`.
        table_learning_rate: of that.

    Raises:
        ValueError: naming the value that no model can be built from.
    """

    batch_size: int
    field_size: int
    vocab_size: int
    emb_dim: int
    deep_layer_dim: Sequence[int]
    deep_layer_act: str
    emb_init: str
    weight_bias_init: str
    l2_coef: float
    keep_prob: float
    dropout_flag: bool
    use_mixed_precision: bool
    sparse: bool
    wide_init: str
    wide_learning_rate: float
    wide_initial_accumulator: float
    deep_learning_rate: float
    table_optimizer: str
    table_learning_rate: float

    def __post_init__(self) -> None:
        for name in ("batch_size", "field_size", "vocab_size", "emb_dim"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        widths = tuple(self.deep_layer_dim)
        object.__setattr__(self, "deep_layer_dim", widths)
        _check(all(width >= 1 for width in widths), "deep_layer_dim", widths, "all at least 1")
        act = self.deep_layer_act
        _check(act in ACTIVATIONS, "deep_layer_act", act, f"one of {', '.join(ACTIVATIONS)}")
        for name in ("emb_init", "weight_bias_init", "wide_init"):
            chosen = getattr(self, name)
            _check(chosen in INITIALIZERS, name, chosen, f"one of {', '.join(INITIALIZERS)}")
        # Adam's state is kept in units of l2_coef (see Adam): a tiny one would overflow it.
        l2_is_sound = self.l2_coef == 0 or 1e-12 <= self.l2_coef < float("inf")
        _check(l2_is_sound, "l2_coef", self.l2_coef, "0, or at least 1e-12")
        _check(0 < self.keep_prob <= 1, "keep_prob", self.keep_prob, "above 0 and at most 1")
        rates = ("wide_learning_rate", "deep_learning_rate", "table_learning_rate")
        for name in (*rates, "wide_initial_accumulator"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        table = self.table_optimizer
        known = ", ".join(TABLE_OPTIMIZERS)
        _check(table in TABLE_OPTIMIZERS, "table_optimizer", table, f"one of {known}")
        _check(self.sparse or table == "adam", "table_optimizer", table, "adam without sparse")


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}, but must be {wanted}")


def computes_in_float16(config: ModelConfig) -> bool:
    """Whether `use_mixed_precision` takes effect on the device that is set.

    On a GPU the dense layers multiply in float16. A CPU has no float16 units: there the casts only
    add work, so the same model is computed in float32 throughout. The caller logs which it is.
    """
    return config.use_mixed_precision and ms.get_context("device_target") == "GPU"


# ---------------------------------------------------------------------------------------------
# Forward pass


def _initial(name: str, shape: Sequence[int]) -> Tensor:
    """An initial float32 value; the fan-based initializers know no fan of a vector: zeros there."""
    fan_based = name.startswith(("xavier", "he_"))
    return initializer("zeros" if fan_based and len(shape) < 2 else name, shape, ms.float32)


class DeepLayer(nn.Cell):  # type: ignore[misc]
    """One dense layer: [b, in] float32 → [b, out] float32, with dropout on its input."""

    def __init__(self, in_dim: int, out_dim: int, config: ModelConfig, is_output: bool) -> None:
        super().__init__()
        init = config.weight_bias_init
        self.weight = Parameter(_initial(init, (out_dim, in_dim)), name="weight")
        self.bias = Parameter(_initial(init, (out_dim,)), name="bias")
        self.matmul = ops.MatMul(transpose_b=True)
        self.is_output = is_output  # the logit must be free to take any value: no activation
        self.activation = ACTIVATIONS[config.deep_layer_act]()
        self.drops = config.dropout_flag and config.keep_prob < 1
        self.dropout = nn.Dropout(p=1 - config.keep_prob)  # active after set_train(True) only
        self.float16 = computes_in_float16(config)

    def construct(self, x: Tensor) -> Tensor:
        """Inputs [b, in] → outputs [b, out]."""
        if self.drops:
            x = self.dropout(x)
        if self.float16:  # only the product: sums and losses need float32's range
            x = ops.cast(
                self.matmul(x.astype(ms.float16), self.weight.astype(ms.float16)), ms.float32
            )
        else:
            x = self.matmul(x, self.weight)
        # Not BiasAdd: MindSpore 2.0.0 fuses it with the product on the CPU, and leaves the bias out
        # for the last (b · out) mod 16 results at some sizes, four rows of each batch of 100.
        x = x + self.bias
        return x if self.is_output else self.activation(x)


class WideDeepModel(nn.Cell):  # type: ignore[misc]
    """logit = Σ_f wide_weight[id] · weight + wide_bias + MLP(embedding_table[id] · weight)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        v, e = config.vocab_size, config.emb_dim
        self.wide_weight = Parameter(_initial(config.wide_init, (v, 1)), name="wide_weight")
        self.wide_bias = Parameter(_initial(config.wide_init, (1,)), name="wide_bias")
        self.embedding_table = Parameter(_initial(config.emb_init, (v, e)), name="embedding_table")
        widths = (config.field_size * e, *config.deep_layer_dim, 1)
        self.deep = nn.CellList(
            [
                DeepLayer(n_in, n_out, config, is_output=layer == len(widths) - 2)
                for layer, (n_in, n_out) in enumerate(zip(widths, widths[1:]))
            ]
        )
        self.gather = ops.Gather()
        self.deep_input_shape = (-1, widths[0])

    def construct(self, id: Tensor, weight: Tensor) -> Tensor:  # noqa: A002
        """Score rows.

        Args:
            id: int32 [b, f], row numbers of the vocabulary.
            weight: float32 [b, f], 1 for a categorical field, the scaled value for a dense one.

        Returns:
            The logit, float32 [b, 1].
        """
        wide_rows, deep_rows = self.rows(id)
        return self.logit(wide_rows, deep_rows, weight)

    def rows(self, id: Tensor) -> tuple[Tensor, Tensor]:  # noqa: A002
        """The vocabulary's entries for a batch: wide [b, f, 1] and deep [b, f, e]."""
        return self.gather(self.wide_weight, id, 0), self.gather(self.embedding_table, id, 0)

    def logit(self, wide_rows: Tensor, deep_rows: Tensor, weight: Tensor) -> Tensor:
        """Score rows whose vocabulary entries are at hand; [b, 1].

        It stands apart from `rows` so that a gradient can stop at the n entries of the batch: the
        gradient of a whole table would be v rows of mostly zeros.
        """
        weight = weight.expand_dims(2)  # [b, f, 1]
        wide = (wide_rows * weight).sum(1) + self.wide_bias  # [b, 1]
        deep = (deep_rows * weight).reshape(self.deep_input_shape)  # [b, f * e]
        for layer in self.deep:
            deep = layer(deep)
        return wide + deep


# ---------------------------------------------------------------------------------------------
# Losses


class HalfSquaredNorm(nn.Cell):  # type: ignore[misc]
    """Σ x² / 2 of a large tensor, in one reading of it.

    `ReduceSum(Square(x))` writes a second table first (64 MB at the defaults, 80–110 ms), and
    `L2Loss` adds 16 million numbers up in a single float32 (on CPU 3 % off). A batch of inner
    products does neither: x is cut into blocks, as many blocks as a block has elements or so.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        blocks = isqrt(prod(shape))
        while prod(shape) % blocks:
            blocks -= 1
        self.blocked_shape = (blocks, 1, prod(shape) // blocks)
        self.inner_product = ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor) -> Tensor:
        """One tensor of the shape given → []."""
        x = x.reshape(self.blocked_shape)
        return self.inner_product(x, x).sum() * 0.5


class NetWithLossClass(nn.Cell):  # type: ignore[misc]
    """The two losses: wide_loss = mean cross-entropy, deep_loss = wide_loss + l2_coef · Σ table²/2.

    With `sparse` there is no L2 term, for it would move every row: deep_loss = wide_loss.
    """

    def __init__(self, network: WideDeepModel, config: ModelConfig) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.l2_coef = 0.0 if config.sparse else float(config.l2_coef)
        self.half_squared_norm = HalfSquaredNorm(network.embedding_table.shape)
        self.cross_entropy = ops.SigmoidCrossEntropyWithLogits()

    def construct(
        self,
        id: Tensor,  # noqa: A002
        weight: Tensor,
        label: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Score rows against their labels.

        Args:
            id: int32 [b, f], row numbers of the vocabulary.
            weight: float32 [b, f].
            label: float32 [b, 1], 1 for a click.

        Returns:
            wide_loss [], deep_loss [] and logit [b, 1], all float32.
        """
        wide_rows, deep_rows = self.network.rows(id)
        wide_loss, logit = self.wide_loss(wide_rows, deep_rows, weight, label)
        return wide_loss, self.deep_loss(wide_loss), logit

    def wide_loss(
        self, wide_rows: Tensor, deep_rows: Tensor, weight: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(wide_loss [], logit [b, 1]): everything that backpropagation has to go through."""
        logit = self.network.logit(wide_rows, deep_rows, weight)
        return self.cross_entropy(logit, label).mean(), logit

    def deep_loss(self, wide_loss: Tensor) -> Tensor:
        """wide_loss with the embedding table's L2 term on top; []."""
        if self.l2_coef == 0.0:
            return wide_loss
        return wide_loss + self.l2_coef * self.half_squared_norm(self.network.embedding_table)


class PredictWithSigmoid(nn.Cell):  # type: ignore[misc]
    """The evaluation network."""

    def __init__(self, network: WideDeepModel) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.sigmoid = ops.Sigmoid()

    def construct(
        self,
        id: Tensor,  # noqa: A002
        weight: Tensor,
        label: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(logit, probability of a click, label), each float32 [b, 1]; inputs as for the losses."""
        logit = self.network(id, weight)
        return logit, self.sigmoid(logit), label


# ---------------------------------------------------------------------------------------------
# Optimizers. Both know two ways to move a table of v rows of which a batch has touched at most n:
# `every row` (dense, the documented way) and `touched rows` (sparse, lazy). The latter comes with
# one difficulty, ids that a batch holds several times, so their gradients are summed up first.
#
# What moves parameters returns the results of the operators that do it: a graph drops what nothing
# depends on, however much it does on the side.

Done = tuple[Tensor, ...]
NOTHING: Done = ()  # a graph can't hold annotated assignments, so it stands here


class SumOverDuplicates(nn.Cell):  # type: ignore[misc]
    """Gives each of the n ids of a batch the gradient of its vocabulary row: [n, k] → [n, k].

    Equal ids get equal sums, hence equal new values: it doesn't matter which of them is written
    last. So nothing here has a shape that depends on how many ids are distinct.
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

    z (`linear`) starts at 0, whatever w starts at. So in the dense way the first step sets all
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
    Adam does not mind the unit of g: with g/c for g and eps/c for eps, m and v become m/c and v/c²
    and p moves the same. In the unit c = l2_coef the gradient of an untouched row *is* the row, so
    that the 64 MB of a dense gradient need neither be made nor read. That saves half the memory
    traffic of the table's update, the larger part of a dense step. So beware: the table's state is
    in the unit of the l2_coef that it was trained with (1 where there is no L2 term).
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

    An id that comes for the first time moves by lr, whatever the size of its gradient, and one that
    comes often moves less and less: each row has had as much of the learning rate as its rows have
    taught it. The state is one number a row where Adam's is 2·e.
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


# ---------------------------------------------------------------------------------------------
# Training step


class TrainStepWrap(nn.Cell):  # type: ignore[misc]
    """One step of training, as `RecModel` wants it: losses, one backward pass, both optimizers.

    The documented example goes back twice, once from either loss. But the losses differ by the L2
    term alone, which knows no wide weight and has a gradient that can be written down: so once
    from wide_loss is enough.

    All state of training is in the parameters of this cell: a checkpoint of it holds everything
    that continuing takes.

    Args:
        network: the losses to train on; its parameters are moved in place.
        config: what `network` was made of.
        sens: loss scale; the loss is multiplied by it before the backward pass and the gradients
            divided by it after, which keeps small gradients from vanishing in float16. In float32
            it would change nothing, so it is left out there.
        rank: number of this rank.
        size: how many ranks train the model together, on `batch_size` rows each.
    """

    def __init__(
        self,
        network: NetWithLossClass,
        config: ModelConfig,
        sens: float = 1024.0,
        rank: int = 0,
        size: int = 1,
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
        self.sum_over_duplicates = SumOverDuplicates()
        self.hyper_map = ops.HyperMap()
        weights = ParameterTuple((self.model.wide_bias, *self.adam.layers))
        self.gradients = ops.value_and_grad(self.scaled_loss, (0, 1), weights, has_aux=True)
        self.is_alone = size == 1
        if size > 1:
            n = config.batch_size * config.field_size
            shapes = tuple(tuple(weight.shape) for weight in weights)
            self.exchange = Exchange(rank, size, config.emb_dim, n, config.batch_size, shapes)

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
            label: float32 [b, 1], 1 for a click.

        Returns:
            wide_loss [], deep_loss [] and logit [b, 1], float32, all as of before the update: every
            row is scored by a model that has not seen it. With several ranks those of the global
            batch, its logits rank by rank.
        """
        wide_rows, deep_rows = self.model.rows(id)  # [b, f, 1], [b, f, e]
        values, gradients = self.gradients(wide_rows, deep_rows, weight, label)
        _, wide_loss, logit = values
        if not self.is_alone:
            id, gradients, wide_loss, logit = self.made_global(  # noqa: A001
                id, gradients, wide_loss, logit
            )
            wide_rows, deep_rows = self.model.rows(id)
        deep_loss = self.network.deep_loss(wide_loss)
        # From here on parameters change in place; whatever is read must have been read by now.
        id = ops.depend(id, (deep_loss, gradients))  # noqa: A001
        done = self.update(id.reshape(-1), wide_rows, deep_rows, self.unscaled(gradients))
        return ops.depend(wide_loss, done), deep_loss, logit

    def row_state(self) -> list[tuple[Parameter, float]]:
        """Every parameter that has a row for each id, with the value of a row that knows nothing.

        A fresh embedding is 0 and not random: it adds nothing to a score until it has learnt.
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

    def made_global(
        self,
        id: Tensor,  # noqa: A002
        gradients: tuple,  # type: ignore[type-arg]
        wide_loss: Tensor,
        logit: Tensor,
    ) -> tuple:  # type: ignore[type-arg]
        """What `construct` goes on with where there are others; n and b are all ranks' then."""
        (wide, deep), weights = gradients
        ids, wide, deep, weights, wide_loss, logit = self.exchange(
            *(id.reshape(-1), wide.reshape(-1, 1), deep.reshape(self.embedding_shape)),
            *(weights, wide_loss, logit),
        )
        return ids, ((wide, deep), weights), wide_loss, logit

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
        """Let both optimizers move what is theirs; ids are [n] here."""
        (wide_gradient, deep_gradient), weight_gradients = gradients
        wide_rows = wide_rows.reshape(-1, 1)  # [n, 1], as the gradients from here on
        deep_rows = deep_rows.reshape(self.embedding_shape)  # [n, e]
        wide_gradient = wide_gradient.reshape(-1, 1)
        deep_gradient = deep_gradient.reshape(self.embedding_shape)
        powers = self.adam.advance()
        done = self.ftrl.bias(weight_gradients[0])
        done += self.adam.dense_layers(powers, weight_gradients[1:])
        if self.sparse:
            wide_sum, deep_sum = self.sum_over_duplicates(ids, wide_gradient, deep_gradient)
            done += self.ftrl.touched_rows(ids, wide_rows, wide_sum)
            done += self.table.touched_rows(powers, ids, deep_rows, deep_sum)
        else:
            (deep_sum,) = self.sum_over_duplicates(ids, deep_gradient)
            done += self.ftrl.every_row(ids, wide_gradient)
            done += self.table.every_row(powers, ids, deep_rows, deep_sum)
        return done
