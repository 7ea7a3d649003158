from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.memory_topic import MemoryTopic, train_on


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryTopic]:
    made = MemoryTopic()
    monkeypatch.chdir(tmp_path)
    train_on(made, monkeypatch)
    yield made
