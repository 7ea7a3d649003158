"""Marks integration tests by their folder and shares the tests out to several processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from src.process.exit_handlers import keep_modules_until_exit

# How long an example takes says nothing while the services' tests run beside it.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

HERE = Path(__file__).parent
# Tests of a group share a process, and in it a broker and what their fixtures have made. What takes
# longest comes first; the tests without a group fill up what is left. The first group stops the
# engine for a while, so it starts beside tests that do not need it.
GROUPS = {
    "documents": ("test_readme.py",),
    "broker": (
        "test_compacted_topics.py",
        "test_compression.py",
        "test_dead_letters.py",
        "test_kafka_source.py",
        "test_local_services.py",
        "test_producer.py",
        "test_replay.py",
        "test_secure_cluster.py",
        "test_topic.py",
    ),
    "many ranks": (),  # tests/ranks, which is no group: its tests mostly wait
    "quickstart": ("test_quickstart.py",),
    "pipeline": ("test_end_to_end.py",),
    "engine": (),  # all others that need it
    "": (),
}
ORDER = list(GROUPS)


@pytest.hookimpl(tryfirst=True)  # xdist's own hook reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE / "integration" in item.path.parents:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: ORDER.index(_group(item)))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Long data are named by how they begin. All workers must collect the same names."""
    if isinstance(val, (bytes, str)) and len(val) > 60:
        return f"{val[:8]!r}, {len(val)} long"
    return None


def _group(item: pytest.Item) -> str:
    if HERE / "integration" not in item.path.parents:
        return "many ranks" if HERE / "ranks" in item.path.parents else ""
    return next((group for group, names in GROUPS.items() if item.path.name in names), "engine")


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
