"""The columns of rows after their functions, put together to ids and weights."""

from __future__ import annotations

import random

import numpy as np
import pytest

from src.dictionaries.dictionaries import Dictionaries
from src.features.feature_builder import FeatureBuilder
from src.features.row_coder import RowCoder, assemble
from src.process.arrays import Array
from src.rows.criteo import (
    CATEGORICAL_COLUMNS,
    DENSE_COLUMNS,
    DENSE_SIZE,
    FIELD_SIZE,
    ParsedRows,
)
from src.rows.parsing import parse_messages
from tests.features.made import make_dictionaries


def ids_of(rows: ParsedRows, made: Dictionaries) -> Array:
    """The ids of all fields."""
    ids, _ = FeatureBuilder(made).build(rows)
    return ids


def test_categorical_columns_are_looked_up_by_the_builders_names_with_the_value() -> None:
    made = make_dictionaries(**{"C1_68fd1e64": 39, "C2_68fd1e64": 40, "C14_68fd1e64": 41})
    rows = parse_messages([b"\t".join([b"1", *[b""] * 13, *[b"68fd1e64"] * 26])])
    ids = ids_of(rows, made)[:, DENSE_SIZE:]
    oov = {f"C{place}": 12 + place for place in range(1, 27)}
    assert oov["C1"] == 13
    known = {"C1": 39, "C2": 40, "C14": 41}
    assert ids.tolist() == [[known.get(column, oov[column]) for column in CATEGORICAL_COLUMNS]]


def test_a_value_known_to_another_column_only_is_unknown() -> None:
    rows = parse_messages([b"\t".join([b"1", *[b""] * 13, b"x", *[b""] * 25])])
    assert ids_of(rows, make_dictionaries(C2_x=39))[0, DENSE_SIZE] == 13


def test_no_rows_build_to_no_rows() -> None:
    for make in (FeatureBuilder, RowCoder):
        ids, weights = make(make_dictionaries()).build(parse_messages([]))
        assert ids.shape == weights.shape == (0, FIELD_SIZE)


def test_assembled_fields_are_dense_first_and_categorical_fields_weigh_one() -> None:
    dense_weights = np.arange(26, dtype=np.float32).reshape(2, 13)
    categorical_ids = np.arange(100, 152, dtype=np.int32).reshape(2, 26)
    ids, weights = assemble(dense_weights, categorical_ids, np.arange(13, dtype=np.int32))
    assert (ids.dtype, weights.dtype) == (np.int32, np.float32)  # type: ignore[comparison-overlap]
    assert ids.tolist() == [[*range(13), *range(100, 126)], [*range(13), *range(126, 152)]]
    assert weights.tolist() == [[*range(13), *[1] * 26], [*range(13, 26), *[1] * 26]]


def test_no_rows_assemble_to_no_rows() -> None:
    ids, weights = assemble(
        np.empty((0, 13), np.float32), np.empty((0, 26), np.int32), np.arange(13, dtype=np.int32)
    )
    assert ids.shape == weights.shape == (0, 39)


@pytest.mark.parametrize("rows", [1, 13, 26, 38, 39, 500])
def test_mindpandas_applies_every_column_function_whatever_the_number_of_rows(rows: int) -> None:
    """Where rows and columns are equally many, pandas may take the one for the other."""
    generator = random.Random(rows)
    values = ["", *(f"v{number}" for number in range(20))]
    lines = [
        [str(generator.randrange(2)), *(str(generator.randrange(-3, 50)) for _ in range(13))]
        + generator.choices(values, k=26)
        for _ in range(rows)
    ]
    names = [*DENSE_COLUMNS, *(f"OOV{name}" for name in CATEGORICAL_COLUMNS)]
    known = [f"{name}_v{number}" for name in CATEGORICAL_COLUMNS for number in range(0, 20, 2)]
    id_of = {name: number for number, name in enumerate([*names, *known])}
    made = Dictionaries(
        dict.fromkeys(DENSE_COLUMNS, 50.0), dict.fromkeys(DENSE_COLUMNS, -5.0), id_of
    )
    parsed = parse_messages(["\t".join(line).encode() for line in lines])
    ids, weights = FeatureBuilder(made).build(parsed)
    for built, coded in zip((ids, weights), RowCoder(made).build(parsed)):
        np.testing.assert_array_equal(built, coded)
    wanted = [
        [
            *range(13),
            *(
                id_of.get(f"{name}_{value}", id_of[f"OOV{name}"])
                for name, value in zip(CATEGORICAL_COLUMNS, line[14:])
            ),
        ]
        for line in lines
    ]
    assert ids.tolist() == wanted
    dense = np.array([[int(text) for text in line[1:14]] for line in lines])
    np.testing.assert_allclose(weights[:, :13], (dense + 5) / 55, rtol=1e-6)
    assert (weights[:, 13:] == 1).all()
