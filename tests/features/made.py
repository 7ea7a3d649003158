"""Dictionaries for the tests of features."""

from __future__ import annotations

from src.dictionaries.dictionaries import Dictionaries
from src.rows.criteo import CATEGORICAL_COLUMNS, DENSE_COLUMNS


def make_dictionaries(**tokens: int) -> Dictionaries:
    """I_j runs from −j to 9j; ids of the fixed tokens as the builder gives them."""
    names = [*DENSE_COLUMNS, *(f"OOV{column}" for column in CATEGORICAL_COLUMNS)]
    ids = {name: number for number, name in enumerate(names)}
    largest = {column: 9.0 * place for place, column in enumerate(DENSE_COLUMNS, start=1)}
    smallest = {column: -1.0 * place for place, column in enumerate(DENSE_COLUMNS, start=1)}
    return Dictionaries(largest, smallest, {**ids, **tokens})
