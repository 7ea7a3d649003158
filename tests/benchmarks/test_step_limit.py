"""What a step must move and multiply, and the best rate that counts."""

from __future__ import annotations

import dataclasses
import math

import mindspore as ms
import numpy as np
import pytest

from benchmarks import hardware
from benchmarks.documented.step import DOCUMENTED_CONFIG
from benchmarks.step_limit import (
    StepLimit,
    cross_lines,
    layer_weights,
    layer_widths,
    multiply_adds,
    optimizer_bytes,
)

PLAIN = dataclasses.replace(
    DOCUMENTED_CONFIG, batch_size=10, vocab_size=300, emb_dim=2, deep_layer_dim=(4,)
)
ADAPTIVE = dataclasses.replace(
    PLAIN, sparse=True, table_optimizer="adagrad", deep_pairs=True, cross_bits=12
)


def test_products_of_pairs_are_inputs_of_the_first_layer() -> None:
    assert layer_widths(PLAIN) == (78, 4, 1)
    assert layer_widths(ADAPTIVE) == (78 + 741, 4, 1)
    assert layer_weights(PLAIN) == 79 * 4 + 5


def test_a_step_multiplies_each_weight_three_times_a_row_and_pairs_too() -> None:
    assert multiply_adds(PLAIN) == 3 * 10 * layer_weights(PLAIN)
    assert multiply_adds(ADAPTIVE) == 3 * 10 * (layer_weights(ADAPTIVE) + 741 * 2)


def test_bytes_of_a_table_row_are_those_of_its_optimizer() -> None:
    def of_a_row(config: object) -> int:
        return optimizer_bytes(config, 1) - optimizer_bytes(config, 0)  # type: ignore[arg-type]

    assert of_a_row(PLAIN) == 2 * 4 * (3 * 2 + 3)
    assert of_a_row(ADAPTIVE) == 2 * 4 * (2 + 1 + 3)
    assert optimizer_bytes(PLAIN, 0) == 7 * 4 * layer_weights(PLAIN)
    assert optimizer_bytes(ADAPTIVE, 5, 3) - optimizer_bytes(ADAPTIVE, 5) == 3 * 2 * 2 * 64


def test_crosses_in_one_line_of_memory_count_once() -> None:
    keys = np.zeros((2, 39), dtype=np.int32)
    assert cross_lines(ADAPTIVE, keys) == 1
    keys[0, 0] = 7  # its pairs are at 7, in the same line of sixteen
    assert cross_lines(ADAPTIVE, keys) == 1
    keys[0, 0] = -1  # its pairs are at the end of the weights
    assert cross_lines(ADAPTIVE, keys) == 2


def test_the_best_rate_of_any_library_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    monkeypatch.setattr(hardware, "BYTES_A_THREAD", 1 << 20)
    limit = StepLimit(PLAIN, 0, {"pytorch": lambda: 1e15})
    assert math.isclose(limit(), 1e3 * multiply_adds(PLAIN) / 1e15)
    rates = limit.rates()
    assert list(rates) == ["products_numpy", "products_mindspore", "products_pytorch"]
    assert 0 < rates["products_numpy"] < rates["products_pytorch"] == 1e6
    slowest = StepLimit(PLAIN, 0, {"pytorch": lambda: 1.0})()
    assert slowest < 1e3 * multiply_adds(PLAIN) / 1e6
    assert StepLimit(PLAIN, 1 << 20, {"pytorch": lambda: 1e15})() > limit()
