"""The ids and weights of dense fields by each transform."""

from __future__ import annotations

import numpy as np
import pytest

from src.dictionaries.errors import DictionaryError
from src.features.column_functions import BUCKETS
from src.features.dense_coding import DenseCoding
from src.process.arrays import Array
from src.rows.criteo import DENSE_COLUMNS, ParsedRows
from src.rows.parsing import parse_messages
from tests.features.made import make_dictionaries

THREE = b"\t".join([b"3"] * 13)
MISSING = b"\t" * 12


def coded(coding: DenseCoding, rows: ParsedRows) -> Array:
    """The dense columns after their functions."""
    columns = zip(DENSE_COLUMNS, rows.numbers.T)
    return np.column_stack([coding.functions[name](column) for name, column in columns])


def dense_fields(transform: str, *lines: bytes) -> tuple[list[list[int]], list[list[float]]]:
    """Ids and weights of the dense fields of rows, with a vocabulary of 2000."""
    coding = DenseCoding(transform, make_dictionaries(), 2000)
    rows = parse_messages([b"1\t" + line + b"\t" * 26 for line in lines])
    ids, weights = coding.fields(coded(coding, rows))
    return np.broadcast_to(ids, weights.shape).tolist(), weights.tolist()


def test_each_dense_column_is_scaled_by_its_own_bounds() -> None:
    coding = DenseCoding("minmax", make_dictionaries(), 0)
    line = b"\t".join([b"0", *[b"4"] * 13, *[b""] * 26])
    weights = coded(coding, parse_messages([line]))
    expected = [(4 + place) / (10 * place) for place in range(1, 14)]
    np.testing.assert_array_equal(weights, np.array([expected], dtype=np.float32))


def test_minmax_gives_each_dense_column_its_id_and_a_missing_value_no_weight() -> None:
    ids, weights = dense_fields("minmax", THREE, MISSING)
    assert ids == [list(range(13))] * 2
    assert weights[0][0] == pytest.approx(0.4)
    assert weights[1] == [0.0] * 13


def test_log_gives_a_missing_value_an_id_of_its_own_at_the_end_of_the_vocabulary() -> None:
    ids, weights = dense_fields("log", THREE, MISSING)
    assert ids == [list(range(13)), list(range(2000 - 13, 2000))]
    assert weights[0] == pytest.approx([np.log(4)] * 13)
    assert weights[1] == [1.0] * 13


def test_bucket_gives_every_bucket_of_every_column_an_id_at_the_end_of_the_vocabulary() -> None:
    ids, weights = dense_fields("bucket", THREE, MISSING)
    first = 2000 - 13 * BUCKETS
    assert ids == [[first + BUCKETS * place + bucket for place in range(13)] for bucket in (7, 0)]
    assert weights == [[1.0] * 13] * 2


@pytest.mark.parametrize(("transform", "reserved"), [("log", 13), ("bucket", 13 * BUCKETS)])
def test_a_vocabulary_without_room_for_the_transform_is_refused(
    transform: str, reserved: int
) -> None:
    DenseCoding(transform, make_dictionaries(), 39 + reserved)
    with pytest.raises(DictionaryError, match="need 39 ids; .* 38 of vocab_size"):
        DenseCoding(transform, make_dictionaries(), 38 + reserved)


def test_dictionaries_beyond_the_table_are_refused_with_both_numbers() -> None:
    DenseCoding("minmax", make_dictionaries(), 39)
    with pytest.raises(DictionaryError, match="need 39 ids, vocab_size is 38: .* --vocab_size"):
        DenseCoding("minmax", make_dictionaries(), 38)


def test_the_fingerprint_tells_transforms_and_vocabulary_sizes_apart() -> None:
    made = make_dictionaries()
    assert DenseCoding("minmax", made, 0).fingerprint == made.fingerprint
    others = [DenseCoding(name, made, size) for name in ("log", "bucket") for size in (2000, 3000)]
    assert len({made.fingerprint, *(coding.fingerprint for coding in others)}) == 5
