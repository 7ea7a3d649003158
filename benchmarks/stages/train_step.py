"""``train_step`` and ``train_step_sparse``: one step on a batch in memory.

The limit of a step is the sum of two times. One is the time to move the bytes of its optimizers, at
the memory's bandwidth. The other is the time of its matrix products, at NumPy's rate. They add up,
as the optimizers wait for the gradients.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from benchmarks.documented.step import DOCUMENTED_CONFIG, documented_step, own_step, random_batch
from benchmarks.hardware import Memory, Multiplier
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.timing import Way, alternate, medians, seconds_of
from src.model.model_config import ModelConfig

EQUAL_STEPS = 20
EQUAL_WITHIN = 1e-5
STEPS_AT_ONCE = 10
LARGE_VOCABULARY = 2_000_000
FLOAT_BYTES = 4
# Not 1: there an input of relu is so near 0 that rounding makes the two steps differ by 1e-4.
SEED = 2

Batches = Sequence[tuple[Tensor, ...]]


def run_dense(settings: Settings) -> list[Result]:
    """The documented step and ours, dense."""
    config, batches = _prepare(settings)
    documented, ours = documented_step(config, SEED), own_step(config, SEED)
    check_equal(documented, ours, batches)
    ways = {
        "documented": _timed_steps(documented, batches),
        "ours": _timed_steps(ours, batches),
        "limit": _limit(config, touched_rows=config.vocab_size),
    }
    median = medians(alternate(ways, settings.repeats, "train_step"))
    return [Result.of_medians("train_step", "ms", median)]


def run_sparse(settings: Settings) -> list[Result]:
    """The documented dense step and ours with ``sparse``, at two sizes of the vocabulary."""
    config, batches = _prepare(settings)
    sparse = dataclasses.replace(config, sparse=True)
    large = dataclasses.replace(sparse, vocab_size=LARGE_VOCABULARY)
    steps: dict[str, nn.Cell] = {
        "documented": documented_step(config, SEED),
        "ours": own_step(sparse, SEED),
        "large": own_step(large, SEED),
    }
    first = {name: float(step(*batches[0])[0].asnumpy()) for name, step in steps.items()}
    np.testing.assert_allclose(first["ours"], first["documented"], rtol=EQUAL_WITHIN)
    touched = int(np.median([len(np.unique(batch[0].asnumpy())) for batch in batches]))
    ways = {name: _timed_steps(step, batches) for name, step in steps.items()}
    ways["limit"] = _limit(sparse, touched)
    median = medians(alternate(ways, settings.repeats, "train_step_sparse"))
    result = Result.of_medians(
        "train_step_sparse",
        "ms",
        median,
        vocabulary_ratio=median["ours"] / median["large"],
        ours_at_2000000=median["large"],
    )
    return [result]


def _prepare(settings: Settings) -> tuple[ModelConfig, Batches]:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    config = dataclasses.replace(DOCUMENTED_CONFIG, batch_size=settings.batches[0])
    random = np.random.default_rng(SEED)
    return config, [random_batch(config, random) for _ in range(EQUAL_STEPS)]


def check_equal(documented: nn.Cell, ours: nn.Cell, batches: Batches) -> None:
    """Fails unless both steps give the same losses and weights over the batches.

    Losses are compared one by one, a parameter by the norm of its difference.
    """
    for batch in batches:
        wanted = [loss.asnumpy() for loss in documented(*batch)]
        actual = [loss.asnumpy() for loss in ours(*batch)[:2]]
        np.testing.assert_allclose(actual, wanted, rtol=EQUAL_WITHIN)
    weights = {p.name: p.asnumpy() for p in documented.losses.model.trainable_params()}
    for parameter in ours.model.trainable_params():
        wanted_weight = weights.pop(parameter.name)
        difference = np.linalg.norm(parameter.asnumpy() - wanted_weight)
        if difference > EQUAL_WITHIN * np.linalg.norm(wanted_weight):
            raise AssertionError(f"{parameter.name} differs by {difference:g} (norm)")
    if weights:
        raise AssertionError(f"not among our parameters: {', '.join(weights)}")


def _timed_steps(step: nn.Cell, batches: Batches) -> Way:
    """Some steps, each with the reading of its losses; milliseconds per step."""
    coming = itertools.cycle(batches)

    def steps() -> None:
        for batch in itertools.islice(coming, STEPS_AT_ONCE):
            outputs = step(*batch)
            outputs[0].asnumpy(), outputs[1].asnumpy()

    return lambda: 1e3 * seconds_of(steps) / STEPS_AT_ONCE


def layer_weights(config: ModelConfig) -> int:
    """Weights and biases of the dense layers."""
    widths = (config.field_size * config.emb_dim, *config.deep_layer_dim, 1)
    return sum((n_in + 1) * n_out for n_in, n_out in zip(widths, widths[1:]))


def optimizer_bytes(config: ModelConfig, touched_rows: int) -> int:
    """Bytes that a step must read from memory and write to it.

    Of a table row these are read and written: the weights, both of Adam's moments, the wide weight,
    FTRL's accumulator and its linear term. Of the layers a gradient is read as well.
    """
    read_and_written = 2 * 3
    table = touched_rows * (config.emb_dim + 1) * read_and_written
    layers = layer_weights(config) * (read_and_written + 1)
    return FLOAT_BYTES * (table + layers)


def _limit(config: ModelConfig, touched_rows: int) -> Way:
    """Measures the least time of a step on this machine, ms."""
    memory = Memory()
    first_layer = (config.field_size * config.emb_dim, config.deep_layer_dim[0])
    multiplier = Multiplier(config.batch_size, *first_layer)
    moved = optimizer_bytes(config, touched_rows)
    products = 3 * config.batch_size * layer_weights(config)  # one forward, two backward
    return lambda: 1e3 * (moved / memory.bandwidth() + products / multiplier.multiply_adds())
