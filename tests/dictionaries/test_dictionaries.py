from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from src.dictionaries.dictionaries import Dictionaries, load_dictionaries, save_dictionaries
from src.dictionaries.errors import DictionaryError
from src.rows.criteo import DENSE_COLUMNS
from tests.dictionaries.made import (
    build,
    dump,
    rows_table,
    upstream_ids,
    upstream_max,
    upstream_min,
)

ROOT = Path(__file__).resolve().parents[2]


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
        ({"max_dict": {**upstream_max(), "I3": 10**400}}, "max.pkl: I3: 1000"),
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
        "from tests.dictionaries.made import rows_table, build\n"
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
