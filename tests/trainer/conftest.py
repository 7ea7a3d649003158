from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from src.trainer import consumer_link
from src.trainer import trainer as trainer_module
from src.trainer.service import set_up_mindspore
from tests.trainer.memory_topic import MemoryReceiver, MemorySource, MemoryTopic


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryTopic]:
    made = MemoryTopic()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(consumer_link, "TopicGroup", lambda *_: MemorySource(made))
    monkeypatch.setattr(consumer_link, "attach", lambda *_: MemoryReceiver(made))
    monkeypatch.setattr(trainer_module, "finalize", lambda: None)
    set_up_mindspore("CPU")
    yield made
