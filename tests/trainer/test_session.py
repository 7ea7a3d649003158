"""Commits of a trainer's session, in the order in which a consumer would see them."""

from __future__ import annotations

from types import TracebackType
from typing import cast

from src.stream.position import Commit, Position
from src.stream.topic_group import TopicGroup
from src.trainer.session import TrainerSession


class RecordedCommits:
    """A group of which only the commits are looked at; test_crashes.py has the real one."""

    def __init__(self) -> None:
        self.commits: list[Commit] = []

    def commit(self, commit: Commit) -> None:
        self.commits.append(commit)

    def try_commit(self, commit: Commit) -> bool:
        self.commits.append(commit)
        return True

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
    return TrainerSession(source, lambda: source, position)


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
