"""How the consumer notices a new trainer session."""

from __future__ import annotations

from typing import cast

from src.consumer.session_follower import SessionFollower
from src.stream.position import Commit, Position
from src.stream.row_source import RowSource


class CommitsInMemory:
    """A group's commit, set by the test."""

    def __init__(self) -> None:
        self.commit_now: Commit | None = None
        self.looks = 0

    def committed(self) -> Commit | None:
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
