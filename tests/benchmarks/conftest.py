"""Sample rows and their dictionaries, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.inputs import dictionary_files
from src.dictionaries.dictionaries import Dictionaries


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="session")
def dictionaries(folder: Path) -> Dictionaries:
    return dictionary_files(folder).load()
