"""Marks integration tests by their folder and keeps them together; the quick ones come first."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

from src.exit_repair import keep_modules_until_exit

# How long an example takes says nothing while the services' tests run beside it.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

INTEGRATION = Path(__file__).parent / "integration"


@pytest.hookimpl(tryfirst=True)  # xdist's own hook reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.integration)
            # One broker and one engine: whatever runs in parallel, these stay in one process.
            item.add_marker(pytest.mark.xdist_group("services"))
    items.sort(key=lambda item: item.get_closest_marker("integration") is not None)


def pytest_sessionfinish() -> None:
    # Without it the tests' own process can end in a segmentation fault after all have passed.
    keep_modules_until_exit()
