"""Marks integration tests by their folder and shares the tests out to two processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import hypothesis
import pytest

from src.process.exit_handlers import keep_modules_until_exit

# How long an example takes says nothing while the services' tests run beside it.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

INTEGRATION = Path(__file__).parent / "integration"
ONLY_A_BROKER = {
    "test_dead_letters.py",
    "test_kafka_source.py",
    "test_producer.py",
    "test_replay.py",
    "test_topic.py",
}
# The longest group comes first, the unit tests and the shorter group run beside it.
ORDER = {"engine": 0, None: 1, "broker": 2}


@pytest.hookimpl(tryfirst=True)  # xdist's own hook reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        group = _group(item)
        if group is not None:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: ORDER[_group(item)])


def _group(item: pytest.Item) -> Optional[str]:
    """Tests of a group share a process: a host has one engine, and each group has one broker."""
    if INTEGRATION not in item.path.parents:
        return None
    return "broker" if item.path.name in ONLY_A_BROKER else "engine"


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Lets a test call a script's ``main``, which takes over the root logger, and puts it back."""
    root, kafka = logging.getLogger(), logging.getLogger("kafka")
    handlers, levels = list(root.handlers), (root.level, kafka.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    kafka.setLevel(levels[1])


def pytest_sessionfinish() -> None:
    # Without it the tests' own process can end in a segmentation fault after all have passed.
    keep_modules_until_exit()
