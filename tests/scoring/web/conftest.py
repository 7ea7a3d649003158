"""One server for the tests that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scoring.made import Publisher
from tests.scoring.web.running import Client, running, settings_of


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Version 20 serves, after version 10."""
    folder = tmp_path_factory.mktemp("versions")
    made = Publisher(folder)
    made.full()
    made.delta()
    with running(settings_of(folder)) as found:
        yield found
