from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.dictionaries.value_counts import RunFile, ValueCounter

TEXTS = st.one_of(
    st.sampled_from(["", "a", "b", "a\0", "ä", "12345678", "123456789", "123456780"]),
    st.text(max_size=12).filter(lambda text: text.isprintable()),
)


@pytest.fixture
def run_file(tmp_path: Path) -> Iterator[RunFile]:
    opened = RunFile(tmp_path / "runs")
    yield opened
    opened.close()


def expected(values: list[Any], min_count: int) -> list[tuple[str, int]]:
    counts = Counter(value for value in values if value is not None)
    frequent = [(value, count) for value, count in counts.items() if count > min_count]
    return sorted(frequent, key=lambda pair: (-pair[1], pair[0].encode()))


@given(
    blocks=st.lists(st.lists(st.one_of(st.none(), TEXTS), max_size=20), max_size=8),
    most_held=st.integers(1, 8),
    min_count=st.integers(0, 2),
    most=st.integers(0, 9),
)
@settings(max_examples=200)
def test_the_most_frequent_values_are_those_of_plain_counting(
    blocks: list[list[Any]], most_held: int, min_count: int, most: int
) -> None:
    run_file = RunFile(tempfile.gettempdir())
    counter = ValueCounter(run_file, most_held)
    for block in blocks:
        counter.add(pa.array(block, pa.string()))
    found = counter.most_frequent(min_count, most)
    run_file.close()
    everything = expected(list(itertools.chain(*blocks)), min_count)
    pairs = list(zip(found.values.to_pylist(), found.counts.tolist()))
    assert pairs == everything[:most]
    assert found.total == len(everything)


def test_columns_that_share_a_file_are_counted_apart(run_file: RunFile) -> None:
    first, second = ValueCounter(run_file, 10), ValueCounter(run_file, 10)
    for start in range(0, 100, 20):
        first.add(pa.array([f"first{n}" for n in range(start, start + 40)]))
        second.add(pa.array([f"second{n}" for n in range(start, start + 20)]))
    assert first.most_frequent(1, 1000).total == 80
    assert second.most_frequent(1, 1000).total == 0
    assert second.most_frequent(0, 1000).values.to_pylist() == sorted(
        f"second{n}" for n in range(100)
    )


def peak_bytes(run_file: RunFile, blocks: int) -> int:
    """The most that pyarrow held while so many blocks of new values were counted."""
    counter = ValueCounter(run_file, most_held=1000)
    before, most = pa.total_allocated_bytes(), 0
    for block in range(blocks):
        numbers = pa.array(np.arange(block * 500, block * 500 + 500))
        counter.add(numbers.cast(pa.string()))
        most = max(most, pa.total_allocated_bytes() - before)
    assert counter.most_frequent(0, 10).total == blocks * 500
    return most


def test_what_memory_holds_does_not_grow_with_the_number_of_values(run_file: RunFile) -> None:
    assert peak_bytes(run_file, 200) <= 1.1 * peak_bytes(run_file, 20)


def test_the_file_has_no_name_and_is_made_in_the_folder_given(
    tmp_path: Path, run_file: RunFile
) -> None:
    counter = ValueCounter(run_file, most_held=1)
    assert not (tmp_path / "runs").exists()
    counter.add(pa.array(["a", "b", "c"]))
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    counter = ValueCounter(RunFile(tmp_path / "file" / "runs"), most_held=1)
    with pytest.raises(OSError, match="file/runs"):
        counter.add(pa.array(["a", "b", "c"]))
