"""Wide & Deep, its losses and both optimizers in NumPy and float64, after the textbook.

It shares nothing with `src.model` but the names of the parameters: the gradients are worked
out by hand, tables are moved row by row over all rows or over the distinct ids of a batch.
"""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Inputs = npt.NDArray[Any]  # int32 ids, float32 weights and labels
Rows = npt.NDArray[np.int_]
Function = Callable[[Array], Array]

# activation and its derivative, the latter in terms of the activation's own value
ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda y: (y > 0).astype(float)),
    "tanh": (np.tanh, lambda y: 1 - y**2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda y: y * (1 - y)),
}


class ReferenceWideDeep:
    """Args: parameters by name, l2_coef (deep_loss's), activation, sparse (lazy updates, no L2).

    The rest is as in `ModelConfig`.
    """

    def __init__(
        self,
        parameters: dict[str, npt.NDArray[np.float32]],
        l2_coef: float,
        activation: str = "relu",
        sparse: bool = False,
        wide_learning_rate: float = 5e-2,
        wide_initial_accumulator: float = 1.0,
        deep_learning_rate: float = 3.5e-4,
        table_optimizer: str = "adam",
        table_learning_rate: float = 3.5e-4,
    ) -> None:
        self.p: dict[str, Array] = {name: x.astype(float) for name, x in parameters.items()}
        self.l2_coef = 0.0 if sparse else l2_coef
        self.activation, self.derivative = ACTIVATIONS[activation]
        self.sparse = sparse
        self.wide_lr, self.deep_lr = wide_learning_rate, deep_learning_rate
        self.table_lr = table_learning_rate
        self.table_optimizer = table_optimizer
        self.layers = sum(name.startswith("deep.") for name in parameters) // 2
        self.t = 0
        self.m = {name: np.zeros_like(x) for name, x in self.p.items()}
        self.v = {name: np.zeros_like(x) for name, x in self.p.items()}
        self.n = {
            name: np.full_like(self.p[name], wide_initial_accumulator)
            for name in ("wide_weight", "wide_bias")
        }
        self.a = np.full(len(self.p["embedding_table"]), 1e-6)
        self.z = {name: np.zeros_like(self.p[name]) for name in ("wide_weight", "wide_bias")}

    def logit(self, ids: Inputs, weight: Inputs) -> Array:
        return self._forward(ids, weight.astype(float))[-1]

    def step(
        self,
        ids: Inputs,
        weight: Inputs,
        label: Inputs,
    ) -> tuple[float, float, Array]:
        """One update; returns wide_loss, deep_loss and logit as of before it."""
        *inputs, logit = self._forward(ids, weight.astype(float))
        wide_loss = float(np.mean(np.logaddexp(0, logit) - label * logit))
        deep_loss = wide_loss + self.l2_coef * float((self.p["embedding_table"] ** 2).sum()) / 2
        gradients = self._backward(ids, weight.astype(float), label, inputs, logit)
        self.t += 1
        for name, gradient in gradients.items():
            lazy = self.sparse and name in ("wide_weight", "embedding_table")
            rows = np.unique(ids) if lazy else np.arange(len(gradient))
            if name.startswith("wide_"):
                self._ftrl(name, rows, gradient[rows])
            elif name == "embedding_table" and self.table_optimizer == "adagrad":
                self._row_adagrad(name, rows, gradient[rows])
            else:
                self._adam(name, rows, gradient[rows])
        return wide_loss, deep_loss, logit

    def _forward(self, ids: Inputs, weight: Array) -> list[Array]:
        """The input of each dense layer, then the logit."""
        wide = (self.p["wide_weight"][ids, 0] * weight).sum(1, keepdims=True) + self.p["wide_bias"]
        x = (self.p["embedding_table"][ids] * weight[:, :, None]).reshape(len(ids), -1)
        inputs = []
        for layer in range(self.layers):
            inputs.append(x)
            x = x @ self.p[f"deep.{layer}.weight"].T + self.p[f"deep.{layer}.bias"]
            if layer < self.layers - 1:
                x = self.activation(x)
        return [*inputs, wide + x]

    def _backward(
        self,
        ids: Inputs,
        weight: Array,
        label: Inputs,
        inputs: list[Array],
        logit: Array,
    ) -> dict[str, Array]:
        error = (1 / (1 + np.exp(-logit)) - label) / len(label)
        gradients = {name: np.zeros_like(x) for name, x in self.p.items()}
        gradients["wide_bias"] += error.sum()
        np.add.at(gradients["wide_weight"], ids, (error * weight)[:, :, None])
        for layer in reversed(range(self.layers)):
            gradients[f"deep.{layer}.weight"] += error.T @ inputs[layer]
            gradients[f"deep.{layer}.bias"] += error.sum(0)
            error = error @ self.p[f"deep.{layer}.weight"]
            if layer > 0:
                error = error * self.derivative(inputs[layer])
        embedded = error.reshape(*ids.shape, -1) * weight[:, :, None]
        np.add.at(gradients["embedding_table"], ids, embedded)
        gradients["embedding_table"] += self.l2_coef * self.p["embedding_table"]
        return gradients

    def _adam(self, name: str, rows: Rows, g: Array) -> None:
        p, m, v = self.p[name], self.m[name], self.v[name]
        m[rows] = 0.9 * m[rows] + 0.1 * g
        v[rows] = 0.999 * v[rows] + 0.001 * g**2
        rate = self.table_lr if name == "embedding_table" else self.deep_lr
        lr = rate * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        p[rows] -= lr * m[rows] / (np.sqrt(v[rows]) + 1e-8)

    def _row_adagrad(self, name: str, rows: Rows, g: Array) -> None:
        self.a[rows] += (g**2).mean(axis=1)
        self.p[name][rows] -= self.table_lr * g / np.sqrt(self.a[rows])[:, None]

    def _ftrl(self, name: str, rows: Rows, g: Array) -> None:
        w, n, z = self.p[name], self.n[name], self.z[name]
        root = np.sqrt(n[rows] + g**2)
        z[rows] += g - (root - np.sqrt(n[rows])) / self.wide_lr * w[rows]
        n[rows] += g**2
        moved = (np.sign(z[rows]) * 1e-8 - z[rows]) / (root / self.wide_lr + 2e-8)
        w[rows] = np.where(np.abs(z[rows]) > 1e-8, moved, 0)
