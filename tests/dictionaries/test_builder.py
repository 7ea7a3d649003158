from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.dictionaries.errors import DictionaryError
from src.rows.criteo import COLUMNS, FIELD_SIZE
from tests.dictionaries.made import build, rows_table

VALUES = st.one_of(st.none(), st.sampled_from(["a", "b", "ab", "é", "_", "C1_a"]))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"I1": st.one_of(st.none(), st.integers(-9, 9)), "C1": VALUES, "C7": VALUES}
    ),
    max_size=30,
)


def test_values_seen_more_often_than_min_count_get_ids_most_frequent_first() -> None:
    rows = (
        [{"C1": "six"}] * 6
        + [{"C1": "seven"}] * 7
        + [{"C1": "eight", "C3": "z"}] * 8
        + [{"C3": "b"}] * 7
        + [{"C3": "a"}] * 7
    )
    built = build(rows_table(rows))
    assert list(built.id_by_token.items())[:13] == [(f"I{n + 1}", n) for n in range(13)]
    assert list(built.id_by_token.items())[13:39] == [(f"OOVC{n + 1}", 13 + n) for n in range(26)]
    assert list(built.id_by_token.items())[39:] == [
        ("C1_eight", 39),
        ("C1_seven", 40),
        ("C3_z", 41),
        ("C3_a", 42),
        ("C3_b", 43),
    ]


def test_minimum_and_maximum_both_start_at_zero() -> None:
    built = build(
        rows_table([{"I1": 5, "I2": -3, "I3": -9}, {"I1": 2, "I2": 4, "I3": -2}]),
        rows_table([{"I1": 7}]),
    )
    assert [built.min_by_column[column] for column in ("I1", "I2", "I3", "I4")] == [0, -3, -9, 0]
    assert [built.max_by_column[column] for column in ("I1", "I2", "I3", "I4")] == [7, 4, 0, 0]


def test_missing_values_are_not_counted() -> None:
    built = build(rows_table([{}] * 20), min_count=0)
    assert len(built.id_by_token) == 39


def test_too_many_values_are_refused_with_the_number_needed() -> None:
    table = rows_table([{"C1": "a", "C2": "b"}, {"C1": "c"}])
    assert build(table, min_count=0, vocab_size=42).vocab_size_needed == 42
    with pytest.raises(DictionaryError, match="42 ids are needed .* vocab_size is 41"):
        build(table, min_count=0, vocab_size=41)
    with pytest.raises(DictionaryError, match="vocab_size is 38"):
        build(table, min_count=0, vocab_size=38, keep_most_frequent=True)


def test_the_most_frequent_values_of_all_columns_are_kept() -> None:
    rows = [{"C1": "often", "C2": "often"}] * 3 + [{"C1": "twice", "C2": "twice"}] * 2
    rows += [{"C2": "once", "C5": value} for value in ("p", "q", "p", "q", "p", "q", "q")]
    built = build(rows_table(rows), min_count=0, vocab_size=43, keep_most_frequent=True)
    # C2's "once" comes 7 times, C5's "q" 4, then three values come 3 times: the first one stays.
    assert list(built.id_by_token)[39:] == ["C1_often", "C2_once", "C2_often", "C5_q"]
    assert built.vocab_size_needed == 43


def test_dictionary_encoded_columns_count_like_plain_ones() -> None:
    table = rows_table([{"C1": "a"}, {"C1": "b"}, {"C1": "a"}, {}])
    encoded = table.set_column(COLUMNS.index("C1"), "C1", table["C1"].dictionary_encode())
    assert build(encoded, min_count=1).id_by_token == build(table, min_count=1).id_by_token


@given(
    rows=ROWS,
    block_size=st.integers(1, 31),
    seed=st.integers(0, 99),
    vocab=st.integers(39, 50),
    most_held=st.integers(1, 5),
)
@settings(max_examples=50)
def test_the_result_depends_neither_on_blocks_nor_on_the_order_of_rows_nor_on_what_memory_holds(
    rows: list[dict[str, Any]], block_size: int, seed: int, vocab: int, most_held: int
) -> None:
    options: dict[str, Any] = {"min_count": 1, "vocab_size": vocab, "keep_most_frequent": True}
    whole = build(rows_table(rows), **options)
    shuffled = random.Random(seed).sample(rows, len(rows))
    starts = range(0, len(rows), block_size)
    parts = build(
        *(rows_table(shuffled[start : start + block_size]) for start in starts),
        most_held=most_held,
        **options,
    )
    assert list(parts.id_by_token.items()) == list(whole.id_by_token.items())
    assert parts.fingerprint == whole.fingerprint


@pytest.mark.parametrize("most_held", [2, 12])  # too few for the 12 values, and just enough
def test_counts_stay_right_over_many_merges(most_held: int) -> None:
    rng = random.Random(3)
    rows = [{"C4": str(rng.randrange(12))} for _ in range(600)]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["C4"]] = counts.get(row["C4"], 0) + 1
    blocks = [rows_table(rows[start : start + 7]) for start in range(0, 600, 7)]
    built = build(*blocks, most_held=most_held, min_count=45)
    expected = sorted((-count, value) for value, count in counts.items() if count > 45)
    assert list(built.id_by_token)[FIELD_SIZE:] == [f"C4_{value}" for _, value in expected]


def test_the_number_needed_is_exact_where_memory_holds_fewer_values() -> None:
    table = rows_table([{"C1": f"{n}", "C2": f"{n}"} for n in range(50)])
    with pytest.raises(DictionaryError, match="139 ids are needed .* vocab_size is 42"):
        build(table, table, most_held=1, min_count=1, vocab_size=42)
