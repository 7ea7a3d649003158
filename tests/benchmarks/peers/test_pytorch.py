"""PyTorch's steps give our losses, and a process that fails is noticed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from benchmarks.documented.step import DOCUMENTED_CONFIG, own_step, random_batch
from benchmarks.peers.environment import ENVIRONMENT, PeerError
from benchmarks.peers.pytorch import PyTorchSteps, columns_of
from benchmarks.settings import Settings
from benchmarks.stages.train_step import LOSSES, check_equal_to_peer, numbers_of, peer_steps
from benchmarks.stages.train_step_adaptive import READ
from src.model.crosses import CrossLearner, TrainStepWithCrosses
from src.model.model_config import ModelConfig

PYTORCH = ENVIRONMENT / "bin" / "python"
SMALL = dataclasses.replace(
    DOCUMENTED_CONFIG, batch_size=10, vocab_size=300, emb_dim=4, deep_layer_dim=(8, 4)
)
KINDS = {
    "dense": SMALL,
    "dense_decay": SMALL,
    "sparse": dataclasses.replace(SMALL, sparse=True),
    "adaptive": dataclasses.replace(
        SMALL,
        sparse=True,
        table_optimizer="adagrad",
        table_learning_rate=2e-2,
        wide_initial_accumulator=1e-5,
        deep_pairs=True,
        cross_bits=12,
        fills_batches=True,
    ),
}


def batch_of(config: ModelConfig, random: np.random.Generator) -> tuple[Tensor, ...]:
    """A random batch; its keys reach the whole range of int32, so that their sums wrap around."""
    batch = random_batch(config, random)
    if not config.cross_bits:
        return batch
    keys = batch[0].asnumpy().astype(np.int64) * 2_654_435_761 % 2**32
    return (*batch, Tensor(keys.astype(np.uint32).view(np.int32)))


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_its_steps_give_our_losses(kind: str, tmp_path: Path) -> None:
    assert PYTORCH.exists(), "make bench BENCH_ARGS=--peers installs PyTorch"
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    config, random = KINDS[kind], np.random.default_rng(1)
    batches = [batch_of(config, random) for _ in range(20)]
    inner = own_step(config, seed=1)
    step: nn.Cell = inner
    if config.cross_bits:
        step = TrainStepWithCrosses(inner, CrossLearner(config))
    settings = Settings(work_dir=tmp_path, pytorch=PYTORCH)
    with peer_steps(settings, kind, inner.model, config, batches) as peer:
        assert peer is not None
        ours = numbers_of(step, batches, READ if config.cross_bits else LOSSES)
        check_equal_to_peer(peer, ours)
        with pytest.raises(AssertionError):
            check_equal_to_peer(peer, ours * 1.001)
        assert peer.milliseconds() > 0
        assert peer.multiply_adds() > 0
    assert peer.name.startswith("PyTorch 2.")


@pytest.mark.parametrize("python", [sys.executable])
def test_a_process_that_fails_is_quoted(python: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"compared_steps": 1}
    with pytest.raises(PeerError, match="PyTorch failed: .*No module named 'torch'"):
        PyTorchSteps(Path(python), "dense", {}, settings, tmp_path)
    assert not list(tmp_path.glob("*.npz"))


def test_no_peer_is_started_unless_it_is_asked_for(tmp_path: Path) -> None:
    model = nn.Cell()
    with peer_steps(Settings(work_dir=tmp_path), "dense", model, SMALL, []) as peer:
        assert peer is None
    assert not list(tmp_path.iterdir())


def test_columns_of_batches_stand_in_one_array_each() -> None:
    batch = [np.full((2, 3), value) for value in (1, 2, 3, 4)]
    columns = columns_of([batch, batch])
    assert list(columns) == ["id", "weight", "label", "key"]
    assert columns["label"].tolist() == np.full((2, 2, 3), 3).tolist()
    assert list(columns_of([batch[:3]])) == ["id", "weight", "label"]
