"""Marks integration tests by their folder and lets the quick tests run first."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.exit_repair import keep_modules_until_exit

INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: item.get_closest_marker("integration") is not None)


def pytest_sessionfinish() -> None:
    # Without it the tests' own process can end in a segmentation fault after all have passed.
    keep_modules_until_exit()
