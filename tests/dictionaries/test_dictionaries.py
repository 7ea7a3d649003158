from __future__ import annotations

import contextlib
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.dictionaries.builder import DictionaryBuilder
from src.dictionaries.dictionaries import Dictionaries, load_dictionaries, save_dictionaries
from src.dictionaries.errors import DictionaryError
from src.dictionaries.safe_pickle import load_pickle
from src.rows.criteo import CATEGORICAL_COLUMNS, COLUMNS, DENSE_COLUMNS, FIELD_SIZE, LABEL

ROOT = Path(__file__).resolve().parents[2]


def upstream_max() -> dict[str, Any]:
    """As the original builder writes it: the start value 0 is an int, a seen one is np.int64."""
    return {column: np.int64(10 + place) for place, column in enumerate(DENSE_COLUMNS)}


def upstream_min() -> dict[str, Any]:
    return {**dict.fromkeys(DENSE_COLUMNS, 0), "I2": np.int64(-3)}


def upstream_ids() -> dict[str, Any]:
    ids: dict[str, Any] = {f"I{number + 1}": number for number in range(13)}
    ids.update({f"OOVC{number + 1}": 13 + number for number in range(26)})
    for token in ("C1_68fd1e64", "C1_05db9164", "C10_a73ee510", "C26_x_y"):
        ids[token] = len(ids)
    return ids


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def load(
    folder: Path,
    max_dict: object = None,
    min_dict: object = None,
    map_dict: object = None,
    vocab_size: int | None = None,
) -> Dictionaries:
    return load_dictionaries(
        dump(folder / "max.pkl", upstream_max() if max_dict is None else max_dict),
        dump(folder / "min.pkl", upstream_min() if min_dict is None else min_dict),
        dump(folder / "map.pkl", upstream_ids() if map_dict is None else map_dict),
        vocab_size,
    )


def rows_table(rows: list[dict[str, Any]]) -> pa.Table:
    """A table of the 40 columns; what a row does not mention is missing."""
    schema = pa.schema(
        [(column, pa.int64()) for column in (LABEL, *DENSE_COLUMNS)]
        + [(column, pa.string()) for column in CATEGORICAL_COLUMNS]
    )
    return pa.Table.from_pylist([{LABEL: 0, **row} for row in rows], schema=schema)


def build(*blocks: pa.Table, most_held: int = 1000, **options: Any) -> Dictionaries:
    folder = tempfile.gettempdir()
    with contextlib.closing(DictionaryBuilder(folder, most_held)) as builder:
        for block in blocks:
            builder.add(block)
        return builder.finish(**options)


# --- reading pickles


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "number",
    [
        3,
        -2.5,
        2**70,
        np.int8(-7),
        np.int64(2**40),
        np.uint64(2**63),
        np.float32(0.5),
        np.float64(1e300),
        np.array(259, dtype=">i4")[()],
    ],
)
def test_numbers_come_back_as_plain_numbers_of_the_same_value(
    tmp_path: Path, number: Any, protocol: int
) -> None:
    read = load_pickle(dump(tmp_path / "d.pkl", {"a": number}, protocol))
    assert read == {"a": number}
    assert type(read["a"]) in (int, float)


def test_a_pickle_that_would_run_a_command_is_refused_without_running_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = dump(tmp_path / "evil.pkl", {"I1": Evil()})
    with pytest.raises(DictionaryError, match=r"evil\.pkl: .*(posix|os)\.system is not admitted"):
        load_pickle(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"a": np.arange(3)}, "numpy.core.multiarray._reconstruct"),
        ({"a": np.bool_(True)}, "'b1'"),
        ({"a": np.str_("x")}, "'U1'"),
        ({"a": pickle.Unpickler}, "_pickle.Unpickler"),
        ({"a": b"bytes"}, "b'bytes' is no number"),
        ({"a": True}, "True is no number"),
        ({"a": "text"}, "'a': 'text' is no number"),
        ({"a": None}, "None is no number"),
        ({1: 2}, "key 1 is no string"),
        ([1, 2], "a list instead of a dict"),
    ],
)
def test_anything_but_a_dict_of_numbers_is_refused_by_name(
    tmp_path: Path, content: object, named: str
) -> None:
    with pytest.raises(DictionaryError) as error:
        load_pickle(dump(tmp_path / "odd.pkl", content))
    assert named in str(error.value)
    assert "odd.pkl" in str(error.value)


@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_in_one_line_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.pkl"
    path.write_bytes(data)
    try:
        assert isinstance(load_pickle(path), dict)
    except DictionaryError as error:
        assert "\n" not in str(error)


@given(cut=st.integers(0, 200))
def test_a_cut_off_pickle_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.pkl"
    path.write_bytes(pickle.dumps(upstream_max())[:cut])
    with pytest.raises(DictionaryError, match=r"cut\.pkl: no dictionary"):
        load_pickle(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match=r"nowhere\.pkl: cannot be read: No such file"):
        load_pickle(tmp_path / "nowhere.pkl")


# --- loading and checking


def test_dictionaries_of_the_original_builder_load_as_they_are(tmp_path: Path) -> None:
    loaded = load(tmp_path, vocab_size=43)
    assert loaded.max_by_column["I13"] == 22.0
    assert loaded.min_by_column == {**dict.fromkeys(DENSE_COLUMNS, 0.0), "I2": -3.0}
    assert loaded.dense_ids.dtype == loaded.oov_ids.dtype == np.int32
    assert loaded.dense_ids.tolist() == list(range(13))
    assert loaded.oov_ids.tolist() == list(range(13, 39))
    values = pa.array(["68fd1e64", "05db9164", "a73ee510", "x_y"])
    ids = loaded.table.look_up([values] * 26, loaded.oov_ids)
    assert ids[0].tolist() == [39, 40, 13, 13]
    assert ids[9].tolist() == [22, 22, 41, 22]
    assert ids[25].tolist() == [38, 38, 38, 42]
    assert loaded.missing_ids.tolist() == loaded.oov_ids.tolist()
    assert len(loaded.table) == 4
    assert loaded.vocab_size_needed == 43
    assert type(loaded.max_by_column["I1"]) is float


def without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"max_dict": without(upstream_max(), "I7")}, "max.pkl: I7 is missing"),
        ({"min_dict": without(upstream_min(), "I1")}, "min.pkl: I1 is missing"),
        ({"max_dict": {**upstream_max(), "I14": 1}}, "max.pkl: key 'I14' is none of I1"),
        ({"max_dict": {**upstream_max(), "I3": float("inf")}}, "max.pkl: I3: inf is not finite"),
        ({"min_dict": {**upstream_min(), "I3": float("nan")}}, "min.pkl: I3: nan is not finite"),
        ({"min_dict": {**upstream_min(), "I1": 11}}, "I1: the minimum 11 is above the maximum 10"),
        ({"map_dict": without(upstream_ids(), "I5")}, "map.pkl: I5 is missing"),
        ({"map_dict": without(upstream_ids(), "OOVC26")}, "map.pkl: OOVC26 is missing"),
        ({"map_dict": {**upstream_ids(), "I14_x": 50}}, "map.pkl: key 'I14_x' is none of"),
        ({"map_dict": {**upstream_ids(), "C27_x": 50}}, "map.pkl: key 'C27_x' is none of"),
        ({"map_dict": {**upstream_ids(), "C1": 50}}, "map.pkl: key 'C1' is none of"),
        ({"map_dict": {**upstream_ids(), "C1_x": 50.0}}, "'C1_x': the id 50.0 is no integer"),
        ({"map_dict": {**upstream_ids(), "C1_x": -1}}, "'C1_x': the id -1 is not in [0, "),
        ({"map_dict": {**upstream_ids(), "C1_x": 12}}, "'C1_x': the id 12 is also that of 'I13'"),
        ({"map_dict": {**upstream_ids(), "C1_x": 2**31}}, "the id 2147483648 is not in [0, 2147"),
        ({"vocab_size": 42}, "'C26_x_y': the id 42 is not in [0, 42)"),
        ({"map_dict": {**upstream_ids(), "C1_\ud800": 50}}, "map.pkl: "),
    ],
)
def test_a_fault_is_named_in_one_line_with_file_key_and_value(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(DictionaryError) as error:
        load(tmp_path, **changed)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dense_column_whose_minimum_equals_its_maximum_loads(tmp_path: Path) -> None:
    loaded = load(tmp_path, max_dict={**upstream_max(), "I1": 0})
    assert loaded.max_by_column["I1"] == loaded.min_by_column["I1"] == 0.0


def test_what_is_saved_loads_the_same_and_is_plain(tmp_path: Path) -> None:
    first = load(tmp_path)
    a, b, c = (tmp_path / name for name in ("a.pkl", "b.pkl", "c.pkl"))
    save_dictionaries(first, a, b, c)
    second = load_dictionaries(a, b, c)
    assert second.id_by_token == first.id_by_token
    assert second.max_by_column == first.max_by_column
    assert second.fingerprint == first.fingerprint
    assert type(pickle.loads(c.read_bytes())) is dict
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".pkl") == []


# --- fingerprint


def test_the_fingerprint_ignores_order_and_number_types(tmp_path: Path) -> None:
    first = load(tmp_path).fingerprint
    rng = random.Random(1)
    shuffled = [rng.sample(list(d.items()), len(d)) for d in (upstream_max(), upstream_ids())]
    zeros = {column: float(value) * -1.0 * -1.0 for column, value in upstream_min().items()}
    zeros["I1"] = -0.0
    assert load(tmp_path, dict(shuffled[0]), zeros, dict(shuffled[1])).fingerprint == first
    assert 0 <= first < 2**64


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "from tests.dictionaries.test_dictionaries import rows_table, build\n"
        "print(build(rows_table([{'I1': 5, 'C1': 'a'}, {'C2': 'b'}]), min_count=0).fingerprint)"
    )
    here = build(rows_table([{"I1": 5, "C1": "a"}, {"C2": "b"}]), min_count=0).fingerprint
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE
    )
    assert int(there.stdout) == here


@pytest.mark.parametrize(
    "changed",
    [
        {"max_dict": {**upstream_max(), "I9": 99}},
        {"min_dict": {**upstream_min(), "I9": -1}},
        {"map_dict": {**upstream_ids(), "C1_new": 43}},
        {"map_dict": {**upstream_ids(), "C26_x_y": 43}},
        {"map_dict": without(upstream_ids(), "C26_x_y")},
        {"map_dict": {**without(upstream_ids(), "C26_x_y"), "C26_x_z": 42}},
        {"map_dict": {**upstream_ids(), "I1": 1, "I2": 0}},
    ],
)
def test_the_fingerprint_changes_with_any_entry(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert load(tmp_path, **changed).fingerprint != load(tmp_path).fingerprint


def test_a_fingerprint_keeps_neighbouring_tokens_apart(tmp_path: Path) -> None:
    one = {**upstream_ids(), "C2_a": 43, "C2_bC2_c": 44}
    other = {**upstream_ids(), "C2_aC2_b": 43, "C2_c": 44}
    assert load(tmp_path, map_dict=one).fingerprint != load(tmp_path, map_dict=other).fingerprint


@pytest.mark.slow
def test_a_million_entries_load_in_seconds(tmp_path: Path) -> None:
    ids = upstream_ids()
    ids.update({f"C3_{number:08x}": 100 + number for number in range(1_000_000)})
    started = time.process_time()
    assert load(tmp_path, map_dict=ids).vocab_size_needed == 1_000_100
    assert time.process_time() - started < 20  # about 2 s on a quiet machine


# --- building


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


VALUES = st.one_of(st.none(), st.sampled_from(["a", "b", "ab", "é", "_", "C1_a"]))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"I1": st.one_of(st.none(), st.integers(-9, 9)), "C1": VALUES, "C7": VALUES}
    ),
    max_size=30,
)


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


def test_the_number_needed_is_told_exactly_where_memory_holds_fewer_values() -> None:
    table = rows_table([{"C1": f"{n}", "C2": f"{n}"} for n in range(50)])
    with pytest.raises(DictionaryError, match="139 ids are needed .* vocab_size is 42"):
        build(table, table, most_held=1, min_count=1, vocab_size=42)
