from __future__ import annotations

import pytest

from src.rows.criteo import is_header
from tests.rows.messages import PLAIN


@pytest.mark.parametrize("line", [b"label\tI1", b"LABEL\tI1", b" label \tI1"])
def test_a_header_is_recognised(line: bytes) -> None:
    assert is_header(line)
    assert not is_header(PLAIN)
