"""How the consumer follows the trainer: by the commits of the group.

The consumer itself commits at most once, when it starts. From then on it only reads the trainer's
commits. A commit with a new session id means that a trainer has started or restarted.
"""

from __future__ import annotations

from typing import Callable

from src.cluster.topic_identity import OtherTopic
from src.stream.position import Commit
from src.stream.row_source import RowSource

FOLLOW_SECONDS = 1.0


class OtherRanks(RuntimeError):  # noqa: N818
    """The trainer's number of ranks differs from this consumer's number of shards."""


class SessionFollower:
    """Reads the group's commit once a second to notice a trainer that has (re)started.

    Args:
        source: Reads the commit.
        session: The session that is followed first.
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, source: RowSource, session: int, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._session = session
        self._read_at = clock()
        self._pending: Commit | None = None

    def has_news(self) -> bool:
        """Whether another session has committed since."""
        now = self._clock()
        if self._pending is None and now - self._read_at >= FOLLOW_SECONDS:
            self._read_at = now
            commit = self._source.committed()
            if commit is not None and commit.session != self._session:
                self._pending = commit
        return self._pending is not None

    def news(self) -> Commit:
        """The commit of the new session, which is followed from now on."""
        if self._pending is None:
            raise AssertionError("news() without has_news()")
        commit, self._pending = self._pending, None
        self._session = commit.session
        return commit


def starting_commit(source: RowSource, start: str) -> Commit:
    """Where to start reading, committed, so that any trainer finds a commit.

    Args:
        source: Resolves the start, reads the commit and writes one.
        start: The consumer's ``--start``.

    Raises:
        SourceError: The start can't be read or is not there, the commit is of another topic, or
            another program is a member of the group.
    """
    source.refuse_members()
    committed = source.last_commit() if start == "committed" else None
    if committed is not None and source.is_of_other_topic(committed.topic_id):
        raise OtherTopic(
            f"the committed position is of another topic of this name, with the id "
            f"{committed.topic_id}; this one's is {source.topic_id} (was it deleted and made "
            "anew?): --start earliest begins with this one"
        )
    position = source.resolve_start(start)
    if committed is not None:
        return committed
    commit = Commit(position, session=0)
    source.commit(commit)
    return commit


def check_ranks(commit: Commit, num_shards: int) -> None:
    """Refuses a trainer that would not read all shards, or would wait for more.

    Raises:
        OtherRanks: The two numbers differ; the text has both.
    """
    if commit.ranks not in (0, num_shards):
        raise OtherRanks(
            f"trainer session {commit.session} has {commit.ranks} rank(s), this consumer was "
            f"started with --num_shards={num_shards}: both must be equal"
        )
