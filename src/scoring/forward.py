"""The forward pass of Wide & Deep in NumPy, over the arrays of a published version.

It computes what ``src.model.wide_and_deep`` and ``src.model.crosses`` do, in float32. Sums have
another order, so the last digits of a logit differ. Shapes:

    n = rows      f = fields (39)      v = vocabulary      e = width of an embedding      p = pairs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from src.features.field_pairs import PAIR_SCALE
from src.process.arrays import Array

ROWS_AT_ONCE = 256
"""So many rows are scored at a time: their arrays stay small, whatever the request."""
_GELU_FACTOR = float(np.sqrt(2 / np.pi))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    small = np.exp(-np.abs(x))
    chance: Array = np.where(x >= 0, 1, small) / (1 + small)
    return chance


def _relu(x: Array) -> Array:
    clipped: Array = np.maximum(x, 0)
    return clipped


def _relu6(x: Array) -> Array:
    clipped: Array = np.clip(x, 0, 6)
    return clipped


def _tanh(x: Array) -> Array:
    bent: Array = np.tanh(x)
    return bent


def _elu(x: Array) -> Array:
    bent: Array = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    return bent


def _gelu(x: Array) -> Array:
    bent: Array = x * 0.5 * (1 + np.tanh(_GELU_FACTOR * (x + 0.044715 * x**3)))
    return bent


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": _relu,
    "relu6": _relu6,
    "tanh": _tanh,
    "sigmoid": sigmoid,
    "elu": _elu,
    "gelu": _gelu,
}
"""The same names as ``src.model.model_config.ACTIVATIONS``."""


@dataclass(frozen=True, eq=False)
class Crosses:
    """The learner of crosses.

    Attributes:
        weight: float32[2^bits].
        left: int32[p], the place of each pair's first field.
        right: int32[p], that of its second field.
    """

    weight: Array
    left: Array
    right: Array

    def logit(self, keys: Array) -> Array:
        """float32[n] of the keys of fields, int32[n, f]."""
        places = (keys[:, self.left] + keys[:, self.right]) & np.int32(len(self.weight) - 1)
        summed: Array = self.weight.take(places).sum(axis=1)
        return summed


@dataclass(frozen=True, eq=False)
class Network:
    """The parameters of a model.

    Attributes:
        wide_weight: float32[v].
        wide_bias: float32[1].
        embedding_table: float32[v, e].
        layers: The dense layers in order: (weight float32[out, in], bias float32[out]).
        activation: Of all layers but the last, a key of ``ACTIVATIONS``.
        has_pairs: Whether products of embeddings are inputs of the first layer too.
        crosses: The learner of crosses; None without one.
    """

    wide_weight: Array
    wide_bias: Array
    embedding_table: Array
    layers: Sequence[tuple[Array, Array]]
    activation: str
    has_pairs: bool
    crosses: Crosses | None

    def logit(self, ids: Array, weights: Array, keys: Array | None) -> Array:
        """Scores rows.

        Args:
            ids: int32[n, f], below v.
            weights: float32[n, f].
            keys: int32[n, f]; None without a learner of crosses.

        Returns:
            float32[n].
        """
        logit = np.empty(len(ids), dtype=np.float32)
        for begin in range(0, len(ids), ROWS_AT_ONCE):
            rows = slice(begin, begin + ROWS_AT_ONCE)
            logit[rows] = self._net(ids[rows], weights[rows])
            if self.crosses is not None:
                assert keys is not None, "a learner of crosses needs keys"
                logit[rows] = (logit[rows] + self.crosses.logit(keys[rows])) * np.float32(0.5)
        return logit

    def _net(self, ids: Array, weights: Array) -> Array:
        """The logit of the wide and the deep part, float32[n]."""
        wide = (self.wide_weight.take(ids) * weights).sum(axis=1) + self.wide_bias
        weighted = self.embedding_table.take(ids, axis=0)  # [n, f, e]
        weighted *= weights[:, :, None]
        deep = weighted.reshape(len(ids), -1)
        if self.has_pairs:
            deep = np.concatenate((deep, _products_of_pairs(weighted)), axis=1)
        last = len(self.layers) - 1
        for number, (weight, bias) in enumerate(self.layers):
            deep = deep @ weight.T + bias
            if number < last:
                deep = ACTIVATIONS[self.activation](deep)
        logit: Array = wide + deep[:, 0]
        return logit


def _products_of_pairs(weighted: Array) -> Array:
    """The inner product of each pair of a row's embeddings: [n, f, e] → [n, f · (f-1) / 2]."""
    rows, fields, _ = weighted.shape
    square = np.matmul(weighted, weighted.transpose(0, 2, 1)).reshape(rows, -1)
    left, right = np.triu_indices(fields, k=1)
    products: Array = square[:, left * fields + right] * np.float32(PAIR_SCALE)
    return products
