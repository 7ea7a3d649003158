from __future__ import annotations

import numpy as np
import pytest

from src.dictionaries.growing.growth import Growth
from src.dictionaries.growing.vocabulary import GrowthSettings
from src.process.arrays import Array
from src.publishing.changes import (
    CROSSES,
    TABLES_OF_IDS,
    ChangeCollector,
    ComparedTable,
    NotedRows,
)
from src.publishing.rebuild import Rebuilt
from src.publishing.version_format import DictionaryTables
from src.rows.criteo import CATEGORICAL_SIZE, FIELD_SIZE
from tests.features.made import make_dictionaries
from tests.publishing.made import VOCAB_SIZE, make_arrays, make_manifest

DICTIONARIES = DictionaryTables.of(make_dictionaries())


class Model:
    """Arrays that are changed in place, as MindSpore's are."""

    def __init__(self, is_noted: bool = True, growth: Growth | None = None) -> None:
        self.arrays = make_arrays()
        self.arrays[CROSSES] = np.zeros(1000, np.float32)
        names = [CROSSES] if is_noted else [CROSSES, *TABLES_OF_IDS]
        self.collector = ChangeCollector(
            lambda: self.arrays,
            NotedRows(VOCAB_SIZE) if is_noted else None,
            {name: ComparedTable() for name in names},
            growth,
            DICTIONARIES,
        )

    def step(self, *ids: int, crosses: int = 3) -> None:
        for name in TABLES_OF_IDS:
            self.arrays[name][list(ids)] += 1
        self.arrays["wide_bias"] += 1
        self.arrays[CROSSES][:crosses] += 1
        self.collector.note(np.array([ids], np.int32), None)


@pytest.fixture(params=[True, False], ids=["noted", "compared"])
def model(request: pytest.FixtureRequest) -> Model:
    return Model(request.param)


def equals(version: Rebuilt, model: Model) -> bool:
    return version.arrays.keys() == model.arrays.keys() and all(
        np.array_equal(version.arrays[name], array) for name, array in model.arrays.items()
    )


def test_a_delta_holds_the_rows_that_moved_and_every_small_array(model: Model) -> None:
    model.step(1, 2)
    version = Rebuilt()
    full = model.collector.full()
    version.apply(make_manifest(1), full)
    assert equals(version, model) and full.dictionaries is DICTIONARIES
    model.step(5, 5, 2)
    model.step(59)
    delta = model.collector.delta()
    assert {name: rows.tolist() for name, (rows, _) in delta.rows.items()} == {
        "wide_weight": [2, 5, 59],
        "embedding_table": [2, 5, 59],
        CROSSES: [0, 1, 2],
    }
    assert "wide_bias" in delta.whole and "deep.0.weight" in delta.whole
    assert delta.dictionaries is None and delta.vocabulary is None
    version.apply(make_manifest(2, make_manifest(1)), delta)
    assert equals(version, model)
    assert all(not len(rows) for rows, _ in model.collector.delta().rows.values())


def test_a_copy_is_not_changed_by_the_next_step(model: Model) -> None:
    full = model.collector.full()
    model.step(1)
    delta = model.collector.delta()
    table = model.arrays["embedding_table"]
    wide_bias = model.arrays["wide_bias"].copy()
    row = table[1].copy()
    model.step(1)
    np.testing.assert_array_equal(delta.rows["embedding_table"][1][0], row)
    np.testing.assert_array_equal(delta.whole["wide_bias"], wide_bias)
    assert not np.array_equal(full.whole["embedding_table"], table)


def test_what_is_put_back_is_in_the_next_delta(model: Model) -> None:
    version = Rebuilt()
    version.apply(make_manifest(1), model.collector.full())
    model.step(1, 2, crosses=5)
    model.collector.put_back(model.collector.delta())
    model.step(2, 3, crosses=2)
    model.collector.put_back(model.collector.delta())
    model.step(4)
    delta = model.collector.delta()
    assert delta.rows["embedding_table"][0].tolist() == [1, 2, 3, 4]
    assert delta.rows[CROSSES][0].tolist() == [0, 1, 2, 3, 4]
    version.apply(make_manifest(2, make_manifest(1)), delta)
    assert equals(version, model)


def test_a_table_of_which_most_moved_is_written_whole_and_can_be_put_back(model: Model) -> None:
    version = Rebuilt()
    version.apply(make_manifest(1), model.collector.full())
    model.step(*range(58), crosses=500)
    delta = model.collector.delta()
    assert CROSSES in delta.whole, "two numbers a row are no less than one of each"
    assert "embedding_table" in delta.whole and "wide_weight" in delta.whole
    model.collector.put_back(delta)
    model.step(59)
    version.apply(make_manifest(2, make_manifest(1)), model.collector.delta())
    assert equals(version, model)


def test_a_full_version_starts_the_changes_anew(model: Model) -> None:
    model.collector.full()
    model.step(1)
    model.collector.put_back(model.collector.delta())
    model.collector.full()
    assert all(not len(rows) for rows, _ in model.collector.delta().rows.values())


def test_a_comparison_sees_bits_and_large_tables_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.publishing.changes.COMPARED_AT_ONCE", 64)
    random = np.random.default_rng(0)
    table = random.normal(size=(1000, 3)).astype(np.float32)
    table[7] = 0.0
    table[8] = np.nan
    compared = ComparedTable()
    compared.start(table)
    assert len(compared.take(table)[0]) == 0
    table[[3, 21, 999], 1] += 1
    table[7, 2] = -0.0
    rows, numbers = compared.take(table)
    assert rows.tolist() == [3, 7, 21, 999]
    np.testing.assert_array_equal(numbers, table[rows])


# --- the growing vocabulary


def batch(*values: bytes) -> tuple[Array, Array, Array]:
    """Rows with a value in C1, out of vocabulary; other fields are known."""
    ids = np.tile(np.arange(FIELD_SIZE, dtype=np.int32), (len(values), 1))
    columns = np.zeros((len(values), CATEGORICAL_SIZE), "S8")
    columns[:, 0] = values
    return ids, np.ones(len(values), np.uint32), columns


def test_ids_that_are_given_freed_and_given_again_are_published() -> None:
    growth = Growth(GrowthSettings(admit_count=1, expire_rows=2), VOCAB_SIZE)
    model = Model(growth=growth)
    version, previous = Rebuilt(), None
    freed_ids = []

    def reset(ids: Array) -> None:
        model.arrays["embedding_table"][ids] = 0

    def step(*values: bytes) -> None:
        ids, _, change = growth.grow(*batch(*values), (58, 60))
        growth.follow(change, reset)
        freed_ids.extend(growth.ids_of(change.freed).tolist())
        model.step(*ids.ravel().tolist())
        model.collector.note(ids, change)

    for number, values in enumerate(
        [(b"a", b"b"), (b"c",), (b"c",), (b"c", b"d"), (b"e",), (b"e",), (b"f", b"e"), (b"g",)]
    ):
        step(*values)
        manifest = make_manifest(number, previous)
        contents = model.collector.full() if previous is None else model.collector.delta()
        if number == 4:  # this one gets lost
            model.collector.put_back(contents)
            continue
        version.apply(manifest, contents)
        assert equals(version, model)
        ids, fields, taken = growth.entries()
        assert version.entries == dict(zip(ids.tolist(), zip(fields.tolist(), taken)))
        previous = manifest
    assert freed_ids, "ids were freed"
    nothing = model.collector.delta().vocabulary
    assert nothing is not None and not len(nothing.ids)
