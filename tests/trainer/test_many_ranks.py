"""Checkpoints of many ranks, with ranks as threads that meet at a barrier."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from mindspore.train import CheckpointConfig

from src.checkpoints.unit import CheckpointError
from src.config import load_config
from src.process.stop import StopFlag
from src.ranks.placement import RankError
from src.stream.position import Position
from src.trainer.callbacks import StreamCheckpoint, TrainingProgress
from src.trainer.many_ranks import RankTrainer
from tests.ranks.thread_ranks import ThreadRanks, together

ENDS = (CheckpointError,)
pytestmark = pytest.mark.timeout(60)


class OneWeight(nn.Cell):  # type: ignore[misc]
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor(np.full(3, value, np.float32)), name="weight")


class Session:
    """Keeps what is committed."""

    def __init__(self, committed: list[Position]) -> None:
        self._committed = committed

    def covering(self, position: Position) -> Position:
        return position

    def commit(self, position: Position, is_beside: bool) -> None:
        assert not is_beside
        self._committed.append(position)


class SavingRank:
    """One rank's checkpoints, every two steps; rank 0's are real ones."""

    def __init__(self, ranks: ThreadRanks, folder: Path, value: float = 1.0) -> None:
        self.committed: list[Position] = []
        self.progress = TrainingProgress(0, Position({0: 0}))
        trainer = RankTrainer(load_config([f"--ckpt_path={folder}"]), StopFlag(), ranks)
        trainer.progress = self.progress
        trainer._ledger = cast(Any, SimpleNamespace(sync=lambda: None))
        trainer._metrics = cast(Any, SimpleNamespace(state=lambda: dict))
        trainer._session = cast(Any, Session(self.committed))
        trainer._source = cast(Any, SimpleNamespace(topic_id=""))
        writer = trainer.make_writer(cast(Any, OneWeight(value)))
        config = CheckpointConfig(save_checkpoint_steps=2, keep_checkpoint_max=9)
        self.callback = StreamCheckpoint("w", str(folder), config, self.progress, writer)


def test_when_a_checkpoint_is_saved_every_rank_knows_that_it_is_durable(tmp_path: Path) -> None:
    def body(ranks: ThreadRanks) -> Any:
        rank = SavingRank(ranks, tmp_path)
        seen = []
        for step in range(1, 5):
            rank.progress.step = step
            rank.progress.position = Position({0: step})
            rank.callback.on_train_step_end(None)
            seen.append(sorted(path.name for path in tmp_path.glob("*.json")))
        return seen, [position.offsets[0] for position in rank.committed]

    seen: list[list[str]] = [[], ["w-1_2.json"], ["w-1_2.json"], ["w-1_2.json", "w-1_4.json"]]
    first, *others = together(3, body, ENDS)
    assert first == (seen, [2, 4])
    assert others == [(seen, [])] * 2


def test_weights_that_differ_are_not_saved_and_end_all_ranks(tmp_path: Path) -> None:
    def body(ranks: ThreadRanks) -> Any:
        rank = SavingRank(ranks, tmp_path, value=1.0 if ranks.rank != 1 else 1.0000001)
        rank.progress.step = 2
        rank.callback.save_now()

    for error in together(3, body, ENDS):
        assert isinstance(error, RankError)
        assert "rank 1 differs from rank 0 in weight" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_is_an_error_on_all_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"

    def body(ranks: ThreadRanks) -> Any:
        rank = SavingRank(ranks, folder)
        ranks.barrier()  # every rank makes the folder
        if ranks.is_first:
            folder.rmdir()
        rank.progress.step = 2
        rank.callback.save_now()

    first, second = together(2, body, ENDS)
    assert isinstance(first, CheckpointError)
    assert isinstance(second, RankError) and "rank 0 has failed" in str(second)
