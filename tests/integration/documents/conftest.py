from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.documents.terminals import Terminals


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    terminals = Terminals(tmp_path)
    terminals.prepare()
    try:
        yield terminals
    finally:
        terminals.close()
        # 230 MB each, and pytest keeps folders
        shutil.rmtree(tmp_path / "ckpt", ignore_errors=True)
