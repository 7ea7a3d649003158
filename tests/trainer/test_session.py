"""Commits of a trainer's session, in the order in which a consumer would see them."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import cast

import pytest

from src.checkpoints.unit import CheckpointError, Unit
from src.cluster.broker import SourceError
from src.config import load_config
from src.stream.position import Commit, Position
from src.stream.topic_group import TopicGroup
from src.trainer.session import TOPIC_ID, StartError, TrainerSession, starting_position


class RecordedCommits:
    """A group of which only the commits are looked at; test_crashes.py has the real one."""

    topic_id = "one"

    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.refuses = False
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def is_of_other_topic(self, topic_id: str) -> bool:
        return topic_id != self.topic_id

    def commit(self, commit: Commit) -> None:
        self.commits.append(commit)

    def try_commit(self, commit: Commit) -> bool:
        if not self.refuses:
            self.commits.append(commit)
        return not self.refuses

    def __enter__(self) -> RecordedCommits:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


def session_of(group: RecordedCommits, position: Position) -> TrainerSession:
    source = cast(TopicGroup, group)
    return TrainerSession(source, lambda at_once: source, position)


def test_a_session_begins_with_a_commit_of_its_position_under_a_number_of_its_own() -> None:
    group = RecordedCommits()
    sessions = [session_of(group, Position({0: 5})) for _ in range(2)]
    assert group.commits == [Commit(Position({0: 5}), session.number, 1) for session in sessions]
    assert sessions[0].number != sessions[1].number


def test_reading_again_starts_at_the_newest_durable_position_under_a_new_number() -> None:
    group = RecordedCommits()
    session = session_of(group, Position({0: 0}))
    first = session.number
    session.commit(Position({0: 40}))
    again = session.read_again()
    assert again != first
    assert group.commits[1:] == [
        Commit(Position({0: 40}), first, 1),
        Commit(Position({0: 40}), again, 1),
    ]


def test_commits_after_reading_again_go_by_the_new_number() -> None:
    group = RecordedCommits()
    session = session_of(group, Position({0: 0}))
    again = session.read_again()
    session.commit(Position({0: 80}))
    assert group.commits[-1] == Commit(Position({0: 80}), again, 1)


def test_commits_beside_training_go_over_one_connection_of_their_own() -> None:
    group, opened = RecordedCommits(), list[tuple[bool, RecordedCommits]]()

    def open_source(at_once: bool) -> TopicGroup:
        opened.append((at_once, RecordedCommits()))
        return cast(TopicGroup, opened[-1][1])

    session = TrainerSession(cast(TopicGroup, group), open_source, Position({0: 0}))
    for offset in (40, 80):
        session.commit(Position({0: offset}), is_beside=True)
    ((at_once, beside),) = opened
    assert at_once and not beside.is_closed
    assert [commit.position.offsets[0] for commit in group.commits] == [0]
    assert [commit.position.offsets[0] for commit in beside.commits] == [40, 80]
    session.commit(Position({0: 90}))
    assert group.commits[-1] == Commit(Position({0: 90}), session.number, 1)
    session.close()
    assert beside.is_closed and not group.is_closed


def test_rows_are_read_again_from_what_is_durable_though_no_broker_took_its_commit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = RecordedCommits()
    source = cast(TopicGroup, group)

    def open_source(at_once: bool) -> TopicGroup:
        if at_once:
            raise SourceError("no broker answers at here:9092")
        return source

    session = TrainerSession(source, open_source, Position({0: 0}))
    session.commit(Position({0: 40}), is_beside=True)
    assert "the position is not committed: no broker answers at here:9092" in caplog.text
    assert len(group.commits) == 1
    session.read_again()
    assert group.commits[-1].position == Position({0: 40})


def test_nothing_is_committed_beside_training_to_a_topic_made_anew() -> None:
    group, anew = RecordedCommits(), RecordedCommits()
    anew.topic_id = "two"
    source = cast(TopicGroup, group)
    session = TrainerSession(source, lambda _: cast(TopicGroup, anew), Position({0: 0}))
    session.commit(Position({0: 40}), is_beside=True)
    assert (anew.commits, anew.is_closed, len(group.commits)) == ([], True, 1)


def test_offsets_without_rows_are_covered_once_all_rows_before_them_are_durable() -> None:
    group = RecordedCommits()
    session = session_of(group, Position({0: 0, 1: 0}))
    source = cast(TopicGroup, group)
    session.cover(source, {0: (40, 45)})
    assert len(group.commits) == 1  # rows before 40 are not trained yet
    session.commit(Position({0: 40, 1: 3}, 0))
    reached = Position({0: 40, 1: 3}, 0, {0: 45})
    assert group.commits[-1].position == reached
    session.cover(source, {0: (40, 45)})
    assert len(group.commits) == 2
    session.cover(source, {0: (40, 45), 1: (3, 7)})
    further = Position({0: 40, 1: 3}, 0, {0: 45, 1: 7})
    assert group.commits[-1] == Commit(further, session.number, 1)
    assert session.covering(Position({0: 41, 1: 3}, 0)).empty_until == {0: 45, 1: 7}
    session.read_again()
    assert group.commits[-1].position == further


def test_a_refused_commit_of_offsets_without_rows_is_tried_again() -> None:
    group = RecordedCommits()
    session = session_of(group, Position({0: 4}))
    source = cast(TopicGroup, group)
    group.refuses = True
    session.cover(source, {0: (4, 9)})
    group.refuses = False
    session.cover(source, {0: (4, 9)})
    assert group.commits[-1].position.reached == {0: 9}


class OneGroup:
    """What a start looks at."""

    def __init__(self, commit: Commit | None, topic_id: str = "here") -> None:
        self.topic_id = topic_id
        self._commit = commit

    def last_commit(self) -> Commit | None:
        return self._commit

    def is_of_other_topic(self, topic_id: str) -> bool:
        return bool(topic_id and self.topic_id and topic_id != self.topic_id)

    def try_read_empty(self) -> dict[int, tuple[int, int]]:
        return {1: (2, 8)}


def start_of(group: OneGroup, unit: Unit | None) -> Position:
    return starting_position(cast(TopicGroup, group), unit, load_config([]))


def unit_of(position: Position, topic_id: str | None) -> Unit:
    extra = {} if topic_id is None else {TOPIC_ID: topic_id}
    return Unit(1, position, "python_test1", 0, {}, Path("w-1_1.ckpt"), extra)


@pytest.mark.parametrize("topic_id", [None, "", "here"])
def test_a_start_covers_what_commit_and_consumer_know_to_hold_no_row(topic_id: str | None) -> None:
    commit = Commit(Position({0: 5, 1: 0}, 0, {0: 7}), 3, topic_id="here")
    position = start_of(OneGroup(commit), unit_of(Position({0: 6, 1: 2}, 1), topic_id))
    assert position == Position({0: 6, 1: 2}, 1, {0: 7, 1: 8})
    assert start_of(OneGroup(commit), None) == commit.position


def test_a_start_refuses_positions_of_another_topic() -> None:
    commit = Commit(Position({0: 5}), 3, topic_id="there")
    with pytest.raises(CheckpointError, match=r"w-1_1.ckpt is of another topic .* there .* here; "):
        start_of(OneGroup(commit), unit_of(Position({0: 6}), "there"))
    with pytest.raises(StartError, match="--start earliest"):
        start_of(OneGroup(commit), None)
    with pytest.raises(StartError, match="has not committed"):
        start_of(OneGroup(None), None)
    assert start_of(OneGroup(commit, topic_id=""), None) == commit.position
