"""Windows of rows held in memory: merge, provenance, positions."""

from __future__ import annotations

import numpy as np
import pytest

from src.dead_letters.dead_letters import DeadLetter
from src.stream.position import Position, PositionTracker
from tests.consumer.rows_in_memory import BAD, DAMAGED, assembler, line, numbers


def test_partitions_are_merged_one_row_each_in_turn() -> None:
    made, _ = assembler([[line(0), line(2), line(4)], [line(1), line(3)]])
    assert numbers(made.take(4)) == [0, 1, 2, 3]
    assert numbers(made.take(4)) == [4]
    assert made.take(4) is None


def test_unknown_values_go_along_only_for_a_trainer_that_learns_them() -> None:
    partitions = [[BAD, line(0), line(2)], [line(1), line(3)]]
    plain = assembler(partitions)[0].take(5)
    assert plain is not None and plain.dtype.names is not None
    assert "value" not in plain.dtype.names
    window = assembler(partitions, sends_unknown=True)[0].take(5)
    assert window is not None
    assert window["value"][:, 25].tolist() == [b"0", b"1", b"2", b"3"]
    assert window["free_ids"].tolist() == [[50, 90]] * 4


def test_every_row_carries_label_session_time_and_provenance() -> None:
    made, _ = assembler([[line(0), line(2)], [line(1), line(3)]])
    window = made.take(4)
    assert window is not None
    assert window["partition"][:, 0].tolist() == [0, 1, 0, 1]
    assert window["offset"][:, 0].tolist() == [0, 0, 1, 1]
    assert window["timestamp"].tolist() == [0, 0, 10, 10]
    assert window["oov"].tolist() == numbers(window)
    assert set(window["dense_transform"]) == {2}
    assert set(window["session"]) == {9}
    assert set(window["dictionaries"]) == {3}
    assert window["label"].tolist() == [1.0] * 4


def test_bad_rows_at_the_end_of_a_window_are_covered_by_the_next_window() -> None:
    made, counts = assembler([[line(0), BAD, line(1)]])
    made.take(2)
    window = made.take(2)
    assert window is not None
    assert (window["start"][0, 0], window["offset"][0, 0]) == (1, 2)
    assert counts.bad_rows == 1


def test_a_message_that_cant_be_read_is_kept_with_its_bytes_and_reason() -> None:
    kept: list[DeadLetter] = []
    made, counts = assembler([[line(0), DAMAGED + line(7), BAD, line(1)]], kept=kept)
    assert numbers(made.take(4)) == [0, 1]
    assert counts.bad_rows == 2
    first, second = kept
    assert (first.offset, first.column, first.reason) == (1, "message", "why")
    assert first.value == DAMAGED + line(7)
    assert (second.offset, second.column, second.value) == (2, "row", BAD)
    assert made.row_offsets() == {0: 4}


def test_only_bad_rows_make_no_window_and_are_released() -> None:
    made, counts = assembler([[BAD, BAD]])
    assert made.take(5) is None
    assert counts.bad_rows == 2
    assert made.take(5) is None
    assert counts.bad_rows == 2


@pytest.mark.parametrize("seed", range(10))
def test_from_any_position_the_same_rows_follow_whatever_the_window_sizes(seed: int) -> None:
    """The order depends on the position alone, also with bad rows and uneven partitions."""
    random = np.random.default_rng(seed)
    partitions = [
        [BAD if random.random() < 0.2 else line(part * 1000 + row) for row in range(length)]
        for part, length in enumerate(random.integers(0, 30, size=3))
    ]
    whole, _ = assembler(partitions)
    reference = numbers(whole.take(1000))
    position = Position({0: 0, 1: 0, 2: 0})
    seen: list[int] = []
    while len(seen) < len(reference):
        made, _ = assembler(partitions, position=position)
        window = made.take(int(random.integers(1, 8)))
        if window is None:
            window = made.take(1000)
        assert window is not None
        tracker = PositionTracker(position)
        assert tracker.admit(window["partition"], window["start"], window["offset"]).all()
        position = tracker.position
        seen += numbers(window)
    assert seen == reference


def test_windows_are_cut_to_a_multiple_of_the_shards() -> None:
    made, _ = assembler([[line(row) for row in range(5)]], num_shards=2)
    assert numbers(made.take(5)) == [0, 2, 1, 3]
    assert made.take(5) is None
