"""The window assembler on rows held in memory: merge, provenance, bad rows, positions."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Optional, cast

import numpy as np
import pytest

from src.consumer.consume import BadRowKeeper, ConsumerCounts, SessionFollower, WindowAssembler
from src.dictionaries.dictionaries import Dictionaries
from src.dictionaries.oov import UnknownValues
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.rows.criteo import (
    CATEGORICAL_COLUMNS,
    DENSE_COLUMNS,
    FIELD_SIZE,
    ParsedRows,
    parse_messages,
)
from src.stream.bad_rows import BadRowGuard, BrokenFeedError
from src.stream.dead_letters import DeadLetter
from src.stream.kafka_source import HeldRows, RowSource, SourceError
from src.stream.position import Commit, Position, PositionTracker

BAD = b"no row"


def line(number: int) -> bytes:
    """A row that tells its number in I1."""
    return b"\t".join([b"1", str(number).encode(), *[b""] * 38])


class NumberFeatures:
    """Features that show I1, so that a test sees which row went where."""

    dense_transform = 2

    def build(self, rows: ParsedRows) -> tuple[Array, Array]:
        numbers = rows.numbers[:, 0].astype(np.int32)
        ids = np.repeat(numbers[:, None], FIELD_SIZE, axis=1)
        return ids, ids.astype(np.float32)

    def oov(self, ids: Array) -> Array:
        return ids[:, 0].astype(np.uint32)

    def unknown(self, rows: ParsedRows, ids: Array) -> UnknownValues:
        values = np.repeat(ids[:, :1].astype("S8"), 26, axis=1)
        return UnknownValues(values, free_ids=(50, 90))


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


class HeldInMemory:
    """Partitions whose messages are known beforehand; offset = place in the list."""

    def __init__(self, partitions: list[list[bytes]]) -> None:
        self._partitions = partitions
        self._next = [0] * len(partitions)

    def seek(self, position: Position) -> None:
        self._next = [position.offsets[part] for part in range(len(self._partitions))]

    def held(self, limit_per_partition: int) -> list[HeldRows]:
        held = []
        for part, messages in enumerate(self._partitions):
            begin = self._next[part]
            values: list[Optional[bytes]] = list(messages[begin : begin + limit_per_partition])
            offset = np.arange(begin, begin + len(values))
            done = begin + len(values) == len(messages)
            held.append(HeldRows(part, values, offset, offset * 10, done))
        return held

    def drop(self, partition: int, rows: int) -> None:
        self._next[partition] += rows


def assembler(
    partitions: list[list[bytes]],
    num_shards: int = 1,
    position: Optional[Position] = None,
    kept: Optional[list[DeadLetter]] = None,
    guard: Optional[BadRowGuard] = None,
    sends_unknown: bool = False,
) -> tuple[WindowAssembler, ConsumerCounts]:
    """An assembler at a position; the bad rows it hands over go to ``kept``."""
    counts = ConsumerCounts()
    source = cast(RowSource, HeldInMemory(partitions))
    features = cast(FeatureBuilder, NumberFeatures())
    kept = [] if kept is None else kept
    keeper = BadRowKeeper(kept.extend, guard or BadRowGuard(1.0), counts)
    made = WindowAssembler(source, features, 3, num_shards, "tsv", "clicks", keeper, sends_unknown)
    start = position or Position({part: 0 for part in range(len(partitions))})
    made.begin(Commit(start, session=9))
    return made, counts


def numbers(window: Optional[Array]) -> list[int]:
    assert window is not None
    return cast(list[int], window["id"][:, 0].tolist())


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


def test_a_bad_row_is_named_counted_and_covered_by_the_next_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, counts = assembler([[line(0), BAD, BAD, line(1)]])
    with caplog.at_level(logging.WARNING):
        window = made.take(10)
    assert numbers(window) == [0, 1]
    assert window is not None
    assert window["start"][:, 0].tolist() == [0, 1]
    assert window["offset"][:, 0].tolist() == [0, 3]
    assert counts.bad_rows == 2
    assert "partition 0, offset 1" in caplog.text


def test_bad_rows_at_the_end_of_a_window_are_covered_by_the_next_window() -> None:
    made, counts = assembler([[line(0), BAD, line(1)]])
    made.take(2)
    window = made.take(2)
    assert window is not None
    assert (window["start"][0, 0], window["offset"][0, 0]) == (1, 2)
    assert counts.bad_rows == 1


def test_only_bad_rows_make_no_window_and_are_let_go() -> None:
    made, counts = assembler([[BAD, BAD]])
    assert made.take(5) is None
    assert counts.bad_rows == 2
    assert made.take(5) is None
    assert counts.bad_rows == 2


def test_many_bad_rows_are_summed_up_by_column(caplog: pytest.LogCaptureFixture) -> None:
    made, counts = assembler([[BAD] * 25])
    with caplog.at_level(logging.WARNING):
        made.take(100)
    assert counts.bad_rows == 25
    assert "and 15 more bad rows, by column: {'row': 15}" in caplog.text


def test_bad_rows_are_handed_over_as_they_came_with_the_window_that_covers_them() -> None:
    kept: list[DeadLetter] = []
    made, _ = assembler([[line(0), BAD, line(1), b"2" + line(2)[1:]]], kept=kept)
    assert numbers(made.take(1)) == [0]
    assert kept == []
    assert numbers(made.take(3)) == [1]
    assert [(letter.origin, letter.value) for letter in kept] == [
        ("clicks:0:1", BAD),
        ("clicks:0:3", b"2" + line(2)[1:]),
    ]
    assert (kept[1].column, kept[1].reason) == ("label", "not 0 or 1: b'2'")
    assert kept[1].time.tzinfo is not None


def test_bad_rows_that_cannot_be_kept_stay_held_and_no_window_covers_them() -> None:
    kept: list[DeadLetter] = []
    counts = ConsumerCounts()

    def fail_once(letters: Sequence[DeadLetter]) -> None:
        kept.extend(letters)
        if len(kept) == 1:
            raise SourceError("away")

    source = cast(RowSource, HeldInMemory([[BAD, line(0)]]))
    features = cast(FeatureBuilder, NumberFeatures())
    keeper = BadRowKeeper(fail_once, BadRowGuard(1.0), counts)
    made = WindowAssembler(source, features, 3, 1, "tsv", "clicks", keeper)
    start = Commit(Position({0: 0}), session=9)
    made.begin(start)
    with pytest.raises(SourceError):
        made.take(5)
    assert counts.bad_rows == 0
    made.begin(start)
    assert numbers(made.take(5)) == [0]
    assert [letter.offset for letter in kept] == [0, 0]
    assert counts.bad_rows == 1


def test_bad_rows_met_again_after_a_rewind_are_kept_named_and_counted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept: list[DeadLetter] = []
    made, counts = assembler([[BAD, line(0), BAD, BAD, line(1)], [BAD]], kept=kept)
    with caplog.at_level(logging.WARNING):
        made.take(1)
        for offset in (2, 0, 3):
            made.begin(Commit(Position({0: offset, 1: 0}), session=10))
            made.take(10)
    assert [letter.origin for letter in kept] == [
        *("clicks:0:0", "clicks:0:2", "clicks:0:3"),
        "clicks:1:0",
    ]
    assert counts.bad_rows == 4
    assert caplog.text.count("bad row: partition") == 4


def test_bad_rows_before_the_first_start_are_kept_when_a_commit_leads_back_to_them() -> None:
    kept: list[DeadLetter] = []
    made, counts = assembler([[BAD, line(0), BAD, line(1)]], position=Position({0: 2}), kept=kept)
    made.take(10)
    made.begin(Commit(Position({0: 0}), session=10))
    made.take(10)
    assert [letter.offset for letter in kept] == [2, 0]
    assert counts.bad_rows == 2


def test_guard_sees_good_and_bad_rows_in_the_order_of_the_stream() -> None:
    class Guard(BadRowGuard):
        def __init__(self) -> None:
            super().__init__(1.0)
            self.seen: list[bool] = []

        def observe(self, good: Array) -> None:
            self.seen += good.tolist()

    guard = Guard()
    partitions = [[line(0), BAD, line(2), line(4), BAD], [BAD, line(1), line(3), BAD, BAD]]
    made, _ = assembler(partitions, guard=guard)
    assert numbers(made.take(5)) == [0, 1, 2]
    assert guard.seen == [True, False, True, False, True]
    assert numbers(made.take(10)) == [3, 4]
    assert guard.seen[5:] == [True, True, False, False, False]


def test_a_broken_feed_stops_it_after_its_rows_are_kept_and_a_new_session_starts_afresh() -> None:
    kept: list[DeadLetter] = []
    made, counts = assembler([[line(0), BAD, BAD, BAD, line(1)]], kept=kept, guard=guard_of(2, 10))
    with pytest.raises(BrokenFeedError, match="3 of the last 4 rows are bad"):
        made.take(10)
    assert counts.bad_rows == len(kept) == 3
    made.begin(Commit(Position({0: 2}), session=10))
    assert numbers(made.take(10)) == [1]


def guard_of(allowed: int, rows: int) -> BadRowGuard:
    """A guard that lets so many bad rows pass among the last rows."""
    return BadRowGuard(allowed / rows, rows)


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


class CommitsInMemory:
    """What the group has committed, as told."""

    def __init__(self) -> None:
        self.commit_now: Optional[Commit] = None
        self.looks = 0

    def committed(self) -> Optional[Commit]:
        self.looks += 1
        return self.commit_now


def test_a_new_session_is_news_once_and_looked_for_at_most_once_a_second() -> None:
    time = [0.0]
    commits = CommitsInMemory()
    follower = SessionFollower(cast(RowSource, commits), session=0, clock=lambda: time[0])
    commits.commit_now = Commit(Position({0: 5}), session=4)
    assert not follower.has_news()
    assert commits.looks == 0
    time[0] = 1.0
    assert follower.has_news()
    assert follower.has_news()
    assert commits.looks == 1
    assert follower.news().position.offsets == {0: 5}
    time[0] = 2.0
    assert not follower.has_news()
