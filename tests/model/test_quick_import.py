"""Without Ascend's operators MindSpore trains as ever on the CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAIN = """
import sys
if sys.argv[1] == "quick":
    from src.model.quick_import import leave_out_ascend
    leave_out_ascend()
import mindspore as ms
import numpy as np
from benchmarks.documented.step import DOCUMENTED_CONFIG, documented_step, own_step, random_batch
from dataclasses import replace

ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
config = replace(DOCUMENTED_CONFIG, batch_size=10, vocab_size=300, emb_dim=4, deep_layer_dim=(8,))
for step in (documented_step(config, 1), own_step(config, 1)):
    random = np.random.default_rng(1)
    for _ in range(3):
        losses = step(*random_batch(config, random))
    print(*(loss.asnumpy().tobytes().hex() for loss in losses[:2]))
print(sum(name.startswith("mindspore.ops._op_impl.aicpu.") for name in sys.modules))
"""


@pytest.fixture(scope="module")
def usual() -> list[str]:
    return train("as usual")


def train(how: str) -> list[str]:
    command = [sys.executable, "-c", TRAIN, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-3:]


def test_losses_are_the_same_to_the_last_bit_by_mindspores_operators_and_by_ours(
    usual: list[str],
) -> None:
    assert train("quick")[:2] == usual[:2]


def test_the_modules_of_ascend_are_left_out(usual: list[str]) -> None:
    assert int(usual[2]) > 100
    assert train("quick")[2] == "0"
