"""The training steps in plain PyTorch; run by a Python of its own.

    build/pytorch/bin/python benchmarks/peers/pytorch_steps.py STEP FILE

STEP is one of four:

* `dense`: an embedding with a dense gradient, the L2 term of its table in the loss, fused Adam.
* `dense_decay`: the same, but Adam adds the L2 term's gradient, as its weight decay.
* `sparse`: an embedding with a sparse gradient and SparseAdam; fused Adam for the layers.
* `adaptive`: row-wise Adagrad for the rows of the batch, products of pairs, and crosses.

PyTorch has no FTRL, so the wide weights have one here, in PyTorch's vectorised operators. Threads
are as PyTorch sets them by default.

FILE is an .npz. It has the initial weights by their names. `id`, `weight`, `label` and for
`adaptive` `key` are those of all batches ([number, b, ...]). `settings` is a JSON object. The first
line on stdout is a JSON object with PyTorch's version and two numbers for each of the first steps.
Then every line "round" on stdin is answered with the milliseconds of a step, and every line
"products" with the multiply-adds per second of the first layer's matrix product.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FIELDS = 39
STEPS_AT_ONCE = 10
PRODUCTS_AT_ONCE = 10
BETAS = (0.9, 0.999)
EPS = 1e-8
WIDE_L1, WIDE_L2 = 1e-8, 1e-8
PAIR_SCALE = 10.0
CROSS_BETA = 0.3
ADAGRAD_START = 1e-6

Batch = tuple[Tensor, ...]


class Net:
    """logit = Σ_f wide_row · weight + bias + MLP(deep rows · weight, products of their pairs)."""

    def __init__(self, values: dict[str, Tensor], with_pairs: bool) -> None:
        self.bias = values["wide_bias"].requires_grad_()
        count = sum(name.startswith("deep.") for name in values) // 2
        names = [f"deep.{place}.{kind}" for place in range(count) for kind in ("weight", "bias")]
        self.layers = [values[name].requires_grad_() for name in names]
        self.with_pairs = with_pairs
        self.pairs = torch.triu_indices(FIELDS, FIELDS, 1)
        self.places = self.pairs[0] * FIELDS + self.pairs[1]

    def logit(self, wide_rows: Tensor, deep_rows: Tensor, weight: Tensor) -> Tensor:
        """Scores [b, 1] of wide rows [b, f, 1], deep rows [b, f, e] and weights [b, f]."""
        weight = weight.unsqueeze(2)
        weighted = deep_rows * weight
        deep = weighted.flatten(1)
        if self.with_pairs:
            square = torch.bmm(weighted, weighted.transpose(1, 2)).flatten(1)
            products = square.index_select(1, self.places)
            deep = torch.cat((deep, products * PAIR_SCALE), 1)
        for place in range(0, len(self.layers), 2):
            deep = functional.linear(deep, self.layers[place], self.layers[place + 1])
            if place < len(self.layers) - 2:
                deep = functional.relu(deep)
        return (wide_rows * weight).sum(1) + self.bias + deep


class FusedAdam:
    """PyTorch's fused Adam, whose eps is not corrected for the first steps' bias."""

    def __init__(self, parameters: list[Any], lr: float) -> None:
        self.adam = torch.optim.Adam(parameters, lr=lr, betas=BETAS, fused=True)
        self.steps = 0

    def step(self) -> None:
        """Moves the parameters by their gradients."""
        self.steps += 1
        corrected = EPS / math.sqrt(1 - BETAS[1] ** self.steps)
        for group in self.adam.param_groups:
            group["eps"] = corrected
        self.adam.step()
        self.adam.zero_grad()


class Ftrl:
    """FTRL-proximal for some weights: all of them, or those of the ids of a batch."""

    def __init__(self, weight: Tensor, lr: float, initial_accumulator: float) -> None:
        self.weight, self.lr = weight, lr
        self.squares = torch.full_like(weight, initial_accumulator, requires_grad=False)
        self.linear = torch.zeros_like(weight, requires_grad=False)

    def all(self, gradient: Tensor) -> None:
        """Moves every weight."""
        state = self._moved(self.weight, self.squares, self.linear, gradient)
        for old, new in zip((self.weight, self.squares, self.linear), state):
            old.copy_(new)

    def some(self, ids: Tensor, gradient: Tensor) -> None:
        """Moves the weights at distinct ids [d] by gradients [d, 1]."""
        state = (self.weight, self.squares, self.linear)
        old = [whole.index_select(0, ids) for whole in state]
        for whole, new in zip(state, self._moved(old[0], old[1], old[2], gradient)):
            whole.index_copy_(0, ids, new)

    def _moved(self, weight: Tensor, squares: Tensor, linear: Tensor, gradient: Tensor) -> Batch:
        new = squares + gradient * gradient
        root = new.sqrt() / self.lr
        linear = linear + gradient - weight * (root - squares.sqrt() / self.lr)
        size = functional.relu(linear.abs() - WIDE_L1)
        return -linear.sign() * size / (root + 2 * WIDE_L2), new, linear


class DenseStep:
    """The table's gradient is dense: the L2 term is in the loss."""

    by_decay = False

    def __init__(self, values: dict[str, Tensor], settings: dict[str, Any]) -> None:
        self.net = Net(values, settings["deep_pairs"])
        self.table = values["embedding_table"].requires_grad_()
        self.wide_weight = values["wide_weight"].requires_grad_()
        self.l2_coef = settings["l2_coef"]
        table = {"params": [self.table], "weight_decay": self.l2_coef if self.by_decay else 0.0}
        groups = [table, {"params": self.net.layers}]
        self.adam = FusedAdam(groups, settings["deep_learning_rate"])
        wide = (settings["wide_learning_rate"], settings["wide_initial_accumulator"])
        self.wide = [Ftrl(part, *wide) for part in (self.wide_weight, self.net.bias)]

    def __call__(self, ids: Tensor, weight: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """(wide_loss, deep_loss)."""
        deep_rows = functional.embedding(ids, self.table)
        logit = self.net.logit(functional.embedding(ids, self.wide_weight), deep_rows, weight)
        wide_loss = functional.binary_cross_entropy_with_logits(logit, label)
        flat = (self.table.detach() if self.by_decay else self.table).view(-1)
        deep_loss = wide_loss + self.l2_coef * 0.5 * torch.dot(flat, flat)
        deep_loss.backward()
        self.adam.step()
        with torch.no_grad():
            for ftrl in self.wide:
                ftrl.all(ftrl.weight.grad)
                ftrl.weight.grad = None
        return wide_loss, deep_loss


class DenseStepByDecay(DenseStep):
    """The same step: Adam adds the gradient of the L2 term, which no backward pass has to make."""

    by_decay = True


class SparseStep:
    """The table's gradient is sparse: only rows of the batch move, without an L2 term."""

    def __init__(self, values: dict[str, Tensor], settings: dict[str, Any]) -> None:
        self.net = Net(values, settings["deep_pairs"])
        self.table = values["embedding_table"].requires_grad_()
        self.wide_weight = values["wide_weight"]
        self.adam = FusedAdam(self.net.layers, settings["deep_learning_rate"])
        self.sparse_adam = torch.optim.SparseAdam(
            [self.table], lr=settings["table_learning_rate"], betas=BETAS, eps=EPS
        )
        wide = (settings["wide_learning_rate"], settings["wide_initial_accumulator"])
        self.wide = Ftrl(self.wide_weight, *wide)
        self.bias = Ftrl(self.net.bias, *wide)

    def __call__(self, ids: Tensor, weight: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """(wide_loss, deep_loss), which are the same."""
        wide_rows = functional.embedding(ids, self.wide_weight).requires_grad_()
        deep_rows = functional.embedding(ids, self.table, sparse=True)
        logit = self.net.logit(wide_rows, deep_rows, weight)
        wide_loss = functional.binary_cross_entropy_with_logits(logit, label)
        wide_loss.backward()
        self.adam.step()
        self.sparse_adam.step()
        self.sparse_adam.zero_grad()
        with torch.no_grad():
            distinct, place = torch.unique(ids, return_inverse=True)
            self.wide.some(distinct, summed(wide_rows.grad, place, len(distinct)))
            self.bias.all(self.net.bias.grad)
            self.net.bias.grad = None
        return wide_loss, wide_loss


class AdaptiveStep:
    """Row-wise Adagrad for the table, and a learner of crosses beside the net."""

    def __init__(self, values: dict[str, Tensor], settings: dict[str, Any]) -> None:
        self.net = Net(values, settings["deep_pairs"])
        self.table, self.wide_weight = values["embedding_table"], values["wide_weight"]
        self.adam = FusedAdam(self.net.layers, settings["deep_learning_rate"])
        wide = (settings["wide_learning_rate"], settings["wide_initial_accumulator"])
        self.wide = Ftrl(self.wide_weight, *wide)
        self.bias = Ftrl(self.net.bias, *wide)
        self.table_lr = settings["table_learning_rate"]
        self.table_squares = torch.full((len(self.table), 1), ADAGRAD_START)
        self.cross_lr = settings["cross_learning_rate"]
        self.crosses = torch.zeros(1 << settings["cross_bits"])
        self.cross_squares = torch.zeros_like(self.crosses)

    def __call__(
        self, ids: Tensor, weight: Tensor, label: Tensor, key: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(the net's loss, the mean of both learners' logits)."""
        wide_rows = functional.embedding(ids, self.wide_weight).requires_grad_()
        deep_rows = functional.embedding(ids, self.table).requires_grad_()
        logit = self.net.logit(wide_rows, deep_rows, weight)
        wide_loss = functional.binary_cross_entropy_with_logits(logit, label)
        wide_loss.backward()
        self.adam.step()
        with torch.no_grad():
            distinct, place = torch.unique(ids, return_inverse=True)
            self.wide.some(distinct, summed(wide_rows.grad, place, len(distinct)))
            self._move_table(distinct, summed(deep_rows.grad, place, len(distinct)))
            self.bias.all(self.net.bias.grad)
            self.net.bias.grad = None
            return wide_loss, ((logit + self._learn_crosses(key, label)) * 0.5).mean()

    def _move_table(self, ids: Tensor, gradient: Tensor) -> None:
        """Row-wise Adagrad at distinct ids [d], by gradients [d, e]."""
        squares = (gradient * gradient).mean(1, keepdim=True)
        squares += self.table_squares.index_select(0, ids)
        self.table_squares.index_copy_(0, ids, squares)
        self.table.index_add_(0, ids, gradient / squares.sqrt(), alpha=-self.table_lr)

    def _learn_crosses(self, key: Tensor, label: Tensor) -> Tensor:
        """Learns a weight for each pair of fields; the logit from before, [b, 1].

        Of PyTorch's ways to read and to add up single numbers, index_select and scatter_add_ are
        the fastest by far.
        """
        left, right = self.net.pairs
        places = key.index_select(1, left).add_(key.index_select(1, right))
        places.bitwise_and_(len(self.crosses) - 1)
        flat = places.flatten()
        logit = self.crosses.index_select(0, flat).view_as(places).sum(1, keepdim=True)
        gradient = torch.sigmoid(logit) - label
        self.cross_squares.scatter_add_(0, flat, (gradient**2).expand_as(places).flatten())
        root = self.cross_squares.index_select(0, flat).sqrt_().add_(CROSS_BETA)
        steps = (gradient * -self.cross_lr).expand_as(places).flatten().div_(root)
        self.crosses.scatter_add_(0, flat, steps)
        return logit


def summed(gradient: Tensor, place: Tensor, count: int) -> Tensor:
    """The sums of gradients [b, f, k] at equal places [b, f]: [count, k]."""
    sums = torch.zeros((count, gradient.shape[2]))
    return sums.index_add_(0, place.flatten(), gradient.flatten(0, 1))


STEPS: dict[str, Callable[..., Any]] = {
    "dense": DenseStep,
    "dense_decay": DenseStepByDecay,
    "sparse": SparseStep,
    "adaptive": AdaptiveStep,
}


def read(path: str) -> tuple[dict[str, Tensor], list[Batch], dict[str, Any]]:
    """Initial weights, batches and settings of a file."""
    with np.load(path) as file:
        arrays = dict(file)
    settings = json.loads(str(arrays.pop("settings")))
    names = [name for name in ("id", "weight", "label", "key") if name in arrays]
    columns = [torch.from_numpy(arrays.pop(name)) for name in names]
    columns = [part if part.is_floating_point() else part.long() for part in columns]
    batches = list(zip(*columns))
    return {name: torch.from_numpy(value) for name, value in arrays.items()}, batches, settings


def products(batch_size: int, layer: Tensor) -> float:
    """Multiply-adds per second of [b, inputs] · [outputs, inputs]ᵀ."""
    outputs, width = map(int, layer.shape)
    inputs = torch.rand(batch_size, width)
    with torch.no_grad():
        began = time.perf_counter()
        for _ in range(PRODUCTS_AT_ONCE):
            functional.linear(inputs, layer)
        seconds = time.perf_counter() - began
    return PRODUCTS_AT_ONCE * batch_size * width * outputs / seconds


def main(kind: str, path: str) -> int:
    """Answers until stdin ends; returns the exit code."""
    values, batches, settings = read(path)
    step = STEPS[kind](values, settings)
    first = batches[: settings["compared_steps"]]
    compared = [[float(number) for number in step(*batch)] for batch in first]
    print(json.dumps({"version": torch.__version__, "losses": compared}), flush=True)
    coming = itertools.cycle(batches)
    for line in sys.stdin:
        if line.strip() == "products":
            answer = products(len(first[0][2]), values["deep.0.weight"])
        else:
            began = time.perf_counter()
            for batch in itertools.islice(coming, STEPS_AT_ONCE):
                for number in step(*batch):
                    number.item()
            answer = 1e3 * (time.perf_counter() - began) / STEPS_AT_ONCE
        print(answer, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
