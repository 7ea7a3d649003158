from __future__ import annotations

import pytest

from src.features.field_pairs import pairs_of_fields


@pytest.mark.parametrize(
    ("fields", "named"),
    [("I1,C27", "'C27' is none of"), ("I1", "two or more"), ("C1,C1", "different")],
)
def test_fields_that_make_no_pairs_are_refused(fields: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"cross_fields: .*{named}"):
        pairs_of_fields(fields)


def test_all_fields_make_741_pairs() -> None:
    assert len(pairs_of_fields("")) == 741
    assert pairs_of_fields("C1,I2") == [(1, 13)]
