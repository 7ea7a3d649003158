"""The least time of a training step on this machine.

It is the sum of two times. One is the time to move the bytes of the optimizers, at the memory's
bandwidth. The other is the time of the matrix products, at the best rate that any library reaches.
They add up, as the optimizers wait for the gradients.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Callable

import numpy as np

from benchmarks.hardware import Memory, Multiplier
from src.features.field_pairs import pairs_of_fields
from src.model.model_config import ModelConfig
from src.process.arrays import Array

FLOAT_BYTES = 4
LINE_BYTES = 64  # what memory moves at once, however little of it is needed
READ_AND_WRITTEN = 2

Rates = Mapping[str, Callable[[], float]]
"""Multiply-adds per second of each library, by its name."""


class StepLimit:
    """Measures the limit of a step, ms.

    Args:
        config: What the step trains.
        moved: The bytes that it must move.
        others: Rates of products by other libraries than NumPy and MindSpore.
    """

    def __init__(self, config: ModelConfig, moved: int, others: Rates) -> None:
        self._memory = Memory()
        inputs, outputs = layer_widths(config)[:2]
        multiplier = Multiplier(config.batch_size, inputs, outputs)
        self._libraries: Rates = {
            "numpy": multiplier.by_numpy,
            "mindspore": multiplier.by_mindspore,
            **others,
        }
        self._rates: dict[str, list[float]] = {name: [] for name in self._libraries}
        self._moved, self._products = moved, multiply_adds(config)

    def __call__(self) -> float:
        """Measures once."""
        for name, rate in self._libraries.items():
            self._rates[name].append(rate())
        best = max(rates[-1] for rates in self._rates.values())
        return 1e3 * (self._moved / self._memory.bandwidth() + self._products / best)

    def rates(self) -> dict[str, float]:
        """The median rate of each library, 10⁹ multiply-adds per second."""
        return {
            f"products_{name}": statistics.median(rates) / 1e9
            for name, rates in self._rates.items()
        }


def layer_widths(config: ModelConfig) -> tuple[int, ...]:
    """Inputs of the first dense layer, and outputs of each."""
    fields = config.field_size
    pairs = fields * (fields - 1) // 2 if config.deep_pairs else 0
    return (fields * config.emb_dim + pairs, *config.deep_layer_dim, 1)


def layer_weights(config: ModelConfig) -> int:
    """Weights and biases of the dense layers."""
    widths = layer_widths(config)
    return sum((n_in + 1) * n_out for n_in, n_out in zip(widths, widths[1:]))


def multiply_adds(config: ModelConfig) -> int:
    """Multiply-adds of a step's products: one forward, two backward."""
    pairs = config.field_size * (config.field_size - 1) // 2
    of_pairs = pairs * config.emb_dim if config.deep_pairs else 0
    return 3 * config.batch_size * (layer_weights(config) + of_pairs)


def optimizer_bytes(config: ModelConfig, touched_rows: int, touched_lines: int = 0) -> int:
    """Bytes that a step must read from memory and write to it.

    Of a table row these are read and written: the weights and their state, which is two moments
    each for Adam and one number a row for Adagrad; the wide weight, FTRL's accumulator and its
    linear term. Of the layers the weights, both moments and, only read, the gradient. Of a cross
    the lines with its weight and its accumulator.

    Args:
        config: What is trained.
        touched_rows: The table rows that move.
        touched_lines: The lines that hold the weights of a batch's crosses.
    """
    of_row = 3 * config.emb_dim if config.table_optimizer == "adam" else config.emb_dim + 1
    table = touched_rows * (of_row + 3) * READ_AND_WRITTEN
    layers = layer_weights(config) * (3 * READ_AND_WRITTEN + 1)
    crosses = touched_lines * 2 * LINE_BYTES * READ_AND_WRITTEN
    return FLOAT_BYTES * (table + layers) + crosses


def cross_lines(config: ModelConfig, keys: Array) -> int:
    """Lines of memory with the weights of a batch's crosses; keys are int32[b, f]."""
    left, right = np.array(pairs_of_fields(config.cross_fields)).T
    places = (keys[:, left] + keys[:, right]) & ((1 << config.cross_bits) - 1)
    return len(np.unique(places // (LINE_BYTES // FLOAT_BYTES)))
