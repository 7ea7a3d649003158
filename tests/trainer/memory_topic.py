"""A stream of rows held in memory, and a whole training run on it."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
import pytest

from online_train import train
from src.channel.window import Provenance, make_window
from src.config import load_config
from src.dictionaries.oov import UnknownValues
from src.process.arrays import Array
from src.process.stop import StopFlag
from src.rows.criteo import FIELD_SIZE
from src.stream.position import Commit, Position
from src.trainer import consumer_link
from src.trainer import trainer as trainer_module
from src.trainer.service import set_up_mindspore
from src.trainer.trainer import Trainer

ROWS = 48 * 20
BATCH = 48
SMALL = ("--vocab_size=60", "--emb_dim=4", "--deep_layer_dim=8", f"--batch_size={BATCH}")
"""Flags of a small model."""


class MemoryTopic:
    """One partition of rows whose labels follow from their ids, read for whoever asks last."""

    def __init__(self) -> None:
        random = np.random.default_rng(4)
        self.ids = random.integers(0, 60, (ROWS, FIELD_SIZE)).astype(np.int32)
        self.labels = (self.ids[:, 0] < 20).astype(np.float32)
        self.commit = Commit(Position({0: 0}), 0)
        self.first_timestamp = 10**12
        self.with_keys = False
        self.dictionaries = 1
        self.oov = np.full(ROWS, 1, np.uint32)
        self.unknown: UnknownValues | None = None

    def window(self) -> Array:
        begin = self.commit.position.offsets[0]
        offset = np.arange(begin, ROWS, dtype=np.int64)
        partition = np.zeros(len(offset), np.int32)
        return make_window(
            self.ids[begin:],
            np.ones((len(offset), FIELD_SIZE), np.float32),
            self.labels[begin:],
            Provenance(partition, offset, offset, self.first_timestamp + offset),
            num_shards=1,
            session=self.commit.session,
            dictionaries=self.dictionaries,
            oov=self.oov[begin:],
            unknown=self._unknown_from(begin),
            keys=self.ids[begin:] * 7_654_321 if self.with_keys else None,
        )

    def _unknown_from(self, begin: int) -> UnknownValues | None:
        unknown = self.unknown
        return unknown and UnknownValues(unknown.values[begin:], unknown.free_ids)


class MemorySource:
    """What the trainer uses of a TopicGroup."""

    topic_id = "one"

    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic

    def __enter__(self) -> MemorySource:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def close(self) -> None:
        pass

    def last_commit(self) -> Commit:
        return self._topic.commit

    def is_of_other_topic(self, topic_id: str) -> bool:
        return topic_id not in ("", self.topic_id)

    def expect_topic(self, topic_id: str) -> None:
        assert topic_id == self.topic_id

    def check_topic(self) -> bool:
        return True

    def refuse_members(self) -> None:
        pass

    def try_read_empty(self) -> dict[int, tuple[int, int]]:
        return {}

    def commit(self, commit: Commit) -> None:
        self._topic.commit = commit

    def try_commit(self, commit: Commit) -> bool:
        self._topic.commit = commit
        return True

    def try_ends(self) -> dict[int, int]:
        return {0: ROWS}

    def holds_rows_back(self) -> bool:
        return False


class MemoryReceiver:
    """Hands all rows behind the committed position out as one window."""

    num_shards = 1

    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic
        self._handed_out = False

    def receive(self, timeout_seconds: float, give_up: Any) -> Array | None:
        if self._handed_out:
            time.sleep(0.01)
            return None
        self._handed_out = True
        return self._topic.window()

    def close(self) -> None:
        pass


def train_on(topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a trainer read this topic, without Kafka and the engine."""
    monkeypatch.setattr(consumer_link, "TopicGroup", lambda *_: MemorySource(topic))
    monkeypatch.setattr(consumer_link, "check_access", lambda *_: None)
    monkeypatch.setattr(consumer_link, "attach", lambda *_: MemoryReceiver(topic))
    monkeypatch.setattr(trainer_module, "finalize", lambda: None)
    set_up_mindspore("CPU")


def run(max_steps: int, *flags: str) -> Trainer:
    config = load_config(
        [*SMALL, "--report_steps=5", "--idle_seconds=60", f"--max_steps={max_steps}", *flags]
    )
    trainer = Trainer(config, StopFlag())
    with contextlib.closing(trainer):
        train(config, trainer)
    return trainer
