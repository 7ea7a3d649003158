"""The Wide & Deep model and its two losses, for MindSpore in graph mode.

Wide & Deep scores a click row twice and adds the two scores up. The wide part is a linear model
over the row's ids: it remembers. The deep part is a small neural net over the embeddings of these
ids: it generalises. Shapes here and in the files beside this one use

    b = batch_size (100)      f = field_size (39)      v = vocab_size (200,000)
    e = emb_dim (80)          n = b * f, the ids of a batch, duplicates included

Parameters keep the names given here in every checkpoint, whichever cell wraps the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, _numpy_seed, _random_normal, initializer

from src.features.field_pairs import PAIR_SCALE
from src.model.model_config import ACTIVATIONS, ModelConfig, computes_in_float16
from src.model.native_operators import REAL, is_native, native_operator
from src.process.arrays import Array

# ---------------------------------------------------------------------------------------------
# Forward pass


class InPlaceNormal(Normal):  # type: ignore[misc]
    """MindSpore's "normal", number for number, without an array of its own that is then copied."""

    def _initialize(self, arr: Array) -> None:
        _random_normal(_numpy_seed(), arr, self.mean, self.sigma)


def _initial(name: str, shape: Sequence[int]) -> Tensor:
    """An initial float32 value; the fan-based initializers know no fan of a vector: zeros there."""
    if name == "normal":
        return initializer(InPlaceNormal(), shape, ms.float32)
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


def native_deep_input(width: int) -> ops.Custom:
    """``WideDeepModel.deep_input`` with products of pairs, as one operator.

    Args:
        width: Of the result.
    """
    inputs = {"rows": REAL, "weight": REAL, "scale": REAL}
    gradient_of_rows = native_operator(
        "DeepInputGradient", {"gradient": REAL, **inputs}, REAL, lambda *shapes: shapes[1]
    )

    def gradient(rows: Tensor, weight: Tensor, scale: Tensor, out: Tensor, dout: Tensor) -> Any:
        of_rows = gradient_of_rows(dout, rows, weight, scale)
        return of_rows, ops.zeros_like(weight), ops.zeros_like(scale)

    return native_operator(
        "DeepInput", inputs, REAL, lambda rows, *others: (rows[0], width), gradient
    )


class WideDeepModel(nn.Cell):  # type: ignore[misc]
    """logit = Σ_f wide_weight[id] · weight + wide_bias + MLP(embedding_table[id] · weight)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        v, e = config.vocab_size, config.emb_dim
        self.wide_weight = Parameter(_initial(config.wide_init, (v, 1)), name="wide_weight")
        self.wide_bias = Parameter(_initial(config.wide_init, (1,)), name="wide_bias")
        self.embedding_table = Parameter(_initial(config.emb_init, (v, e)), name="embedding_table")
        f = config.field_size
        pairs = f * (f - 1) // 2 if config.deep_pairs else 0
        widths = (f * e + pairs, *config.deep_layer_dim, 1)
        self.deep = nn.CellList(
            [
                DeepLayer(n_in, n_out, config, is_output=layer == len(widths) - 2)
                for layer, (n_in, n_out) in enumerate(zip(widths, widths[1:]))
            ]
        )
        self.gather = ops.Gather()
        self.has_pairs = config.deep_pairs
        self.native_input = native_deep_input(widths[0]) if pairs and is_native() else None
        self.pair_scale = Tensor(np.array([PAIR_SCALE], np.float32))
        self.flat_shape, self.square_shape = (-1, f * e), (-1, f * f)
        left, right = np.triu_indices(f, k=1)
        self.upper_triangle = Tensor((left * f + right).astype(np.int32))
        self.inner_products = ops.BatchMatMul(transpose_b=True)

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

        It is separate from `rows` so that a gradient can stop at the n entries of the batch. The
        gradient of a whole table would be v rows, mostly zeros.
        """
        weight = weight.expand_dims(2)  # [b, f, 1]
        wide = (wide_rows * weight).sum(1) + self.wide_bias  # [b, 1]
        deep = self.deep_input(deep_rows, weight)
        for layer in self.deep:
            deep = layer(deep)
        return wide + deep

    def deep_input(self, deep_rows: Tensor, weight: Tensor) -> Tensor:
        """What the dense layers see: [b, f, e] and [b, f, 1] → [b, f * e (+ f · (f-1) / 2)]."""
        if self.native_input is not None:
            return self.native_input(deep_rows, weight, self.pair_scale)
        weighted = deep_rows * weight  # [b, f, e]
        deep = weighted.reshape(self.flat_shape)
        if self.has_pairs:
            deep = ops.concat((deep, self.products_of_pairs(weighted)), 1)
        return deep

    def products_of_pairs(self, weighted: Tensor) -> Tensor:
        """The inner product of each pair of a row's embeddings: [b, f, e] → [b, f · (f-1) / 2].

        A product of two small numbers is tiny, so it is scaled up to the size of the other inputs.
        """
        square = self.inner_products(weighted, weighted).reshape(self.square_shape)
        return self.gather(square, self.upper_triangle, 1) * PAIR_SCALE


# ---------------------------------------------------------------------------------------------
# Losses


class HalfSquaredNorm(nn.Cell):  # type: ignore[misc]
    """Σ x² / 2 of a large tensor, in one reading of it.

    `ReduceSum(Square(x))` writes a second table first (64 MB at the defaults, 80–110 ms). `L2Loss`
    adds 16 million numbers up in a single float32 (on the CPU 3 % off). A batch of inner products
    does neither. x is cut into blocks, about as many as a block has elements.
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

    With `fills_batches` the mean is over the rows whose label is not negative. A filler row then
    has a gradient of exactly 0. Its ids must be those of a row of the batch, as an optimizer moves
    every id that it is given.
    """

    def __init__(self, network: WideDeepModel, config: ModelConfig) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.l2_coef = 0.0 if config.sparse else float(config.l2_coef)
        self.half_squared_norm = HalfSquaredNorm(network.embedding_table.shape)
        self.cross_entropy = ops.SigmoidCrossEntropyWithLogits()
        self.fills_batches = config.fills_batches

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
            label: float32 [b, 1], 1 for a click, negative for a filler row.

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
        losses = self.cross_entropy(logit, label)
        if self.fills_batches:
            is_real = (label >= 0).astype(ms.float32)
            # Of a full batch it is the mean below, to the last bit.
            return (losses * is_real).mean() * (label.shape[0] / is_real.sum()), logit
        return losses.mean(), logit

    def deep_loss(self, wide_loss: Tensor) -> Tensor:
        """wide_loss with the embedding table's L2 term on top; []."""
        if self.l2_coef == 0.0:
            return wide_loss
        return self.with_l2(wide_loss, self.half_squared_norm(self.network.embedding_table))

    def with_l2(self, wide_loss: Tensor, half_squared_norm: Tensor) -> Tensor:
        """wide_loss with the L2 term of a table whose half squared norm is known; []."""
        return wide_loss + self.l2_coef * half_squared_norm


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
