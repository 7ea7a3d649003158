from __future__ import annotations

import pyarrow as pa
import pytest

from src.dictionaries import value_keys as module
from src.dictionaries.value_keys import fixed_width

VALUES = ["a", None, "", "x" * 8, "x" * 9, "ends with NUL\0", "\0", "ä", "a\0b", "\ud55c"]


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "large_binary"])
def test_values_are_whole_unless_they_are_too_long_or_end_with_nul(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    encoded = [None if value is None else value.encode() for value in VALUES]
    given = pa.array(encoded, pa.large_binary()).cast(getattr(pa, kind)())
    for begin in (0, 4):
        texts, is_whole = fixed_width(given.slice(begin), most_bytes=8)
        for text, whole, value in zip(texts.tolist(), is_whole.tolist(), encoded[begin:]):
            value = value or b""
            assert whole == (len(value) <= 8 and not value.endswith(b"\0"))
            if whole:
                assert text == value


def test_no_values_are_none() -> None:
    for values in (pa.array([], pa.string()), pa.array([None], pa.string()).slice(1)):
        texts, is_whole = fixed_width(values, 8)
        assert (len(texts), len(is_whole)) == (0, 0)
