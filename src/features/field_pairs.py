"""Pairs of a row's fields: those whose products and those whose crosses the model takes."""

from __future__ import annotations

from itertools import combinations

from src.features.row_coder import FIELD_NAMES

PAIR_SCALE = 10.0
"""The factor of a product of two embeddings, which brings it to the size of the other inputs."""


def pairs_of_fields(cross_fields: str) -> list[tuple[int, int]]:
    """The pairs to learn, as places of fields.

    Args:
        cross_fields: Names of fields, such as "I1,C3,C14"; empty for all.

    Raises:
        ValueError: A name is unknown or stands twice, or there is only one.
    """
    wanted = cross_fields.strip() or ",".join(FIELD_NAMES)
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in FIELD_NAMES:
            raise ValueError(f"cross_fields: {name!r} is none of I1..I13, C1..C26")
    if len(set(names)) < len(names) or len(names) < 2:
        raise ValueError(f"cross_fields: {cross_fields!r} must name two or more different fields")
    return list(combinations(sorted(FIELD_NAMES.index(name) for name in names), 2))
