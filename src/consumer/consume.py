"""The consumer: rows of a topic → windows of features → the channel.

Guarantee: every row of the topic from the starting position on is either part of exactly one
window of a session or counted, named and kept as a bad row before any row behind it is handed on.
The consumer never commits what it has read; it follows the trainer's commits. When a new session
appears among them, a trainer has (re)started: the consumer drops what it holds, goes to the
committed position and reads on from there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Callable, Optional

import numpy as np

from src.channel.channel import WindowSender
from src.channel.window import ClosingRule, Provenance, make_window, merge_order
from src.dictionaries.oov import UnknownValues
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.process.stop import StopFlag
from src.rows.criteo import ParsedRows, parse_messages
from src.stream.bad_rows import BadRowGuard, OffsetRanges
from src.stream.dead_letters import DeadLetter
from src.stream.kafka_source import HeldRows, RowSource
from src.stream.position import Commit, Position, advance

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
FOLLOW_SECONDS = 1.0
STATUS_SECONDS = 10.0
NAMED_BAD_ROWS = 10


@dataclass
class ConsumerCounts:
    """What a consumer has done so far."""

    windows: int = 0
    rows: int = 0
    bad_rows: int = 0


class BadRowKeeper:
    """Names, counts and keeps bad rows, each once, and stops where there are too many.

    After a rewind the consumer meets rows that it has let go before; the bad ones among them are
    passed over.

    Args:
        on_bad_rows: Is given the bad rows and returns when they are safe.
        guard: Sees every row that is let go.
        counts: Its bad rows are counted up.
    """

    def __init__(
        self,
        on_bad_rows: Callable[[Sequence[DeadLetter]], None],
        guard: BadRowGuard,
        counts: ConsumerCounts,
    ) -> None:
        self._on_bad_rows = on_bad_rows
        self._guard = guard
        self._counts = counts
        self._start: dict[int, int] = {}
        self._kept: dict[int, OffsetRanges] = {}

    def begin(self, position: Position) -> None:
        """From here on the rows are read, whatever was read before."""
        self._guard.reset()
        self._start = dict(position.offsets)

    def keep(self, bad: Sequence[DeadLetter], good: Array, ends: Mapping[int, int]) -> None:
        """Takes the next rows.

        Args:
            bad: The bad ones.
            good: bool[rows], which rows are good, in stream order.
            ends: Partition → the offset behind its last row among them.

        Raises:
            BrokenFeedError: Too many of the last rows are bad.
        """
        kept = {part: self._kept.setdefault(part, OffsetRanges()) for part in ends}
        fresh = [letter for letter in bad if letter.offset not in kept[letter.partition]]
        if fresh:
            _log_bad_rows(fresh)
            self._on_bad_rows(fresh)
            self._counts.bad_rows += len(fresh)
        for part, end in ends.items():
            kept[part].add(self._start[part], end)
        self._guard.observe(good)


def _log_bad_rows(letters: Sequence[DeadLetter]) -> None:
    for letter in letters[:NAMED_BAD_ROWS]:
        logger.warning(
            "bad row: partition %d, offset %d, %s: %s",
            *(letter.partition, letter.offset, letter.column, letter.reason),
        )
    if len(letters) > NAMED_BAD_ROWS:
        columns = Counter(letter.column for letter in letters[NAMED_BAD_ROWS:])
        more = sum(columns.values())
        logger.warning("and %d more bad rows, by column: %s", more, dict(columns))


@dataclass(frozen=True)
class _Parsed:
    """The held rows that a window could take, parsed, partition after partition."""

    held: Sequence[HeldRows]
    rows: ParsedRows
    partition: Array
    """int64[messages], which of ``held`` a message belongs to."""
    place: Array
    """int64[messages], its place among that partition's held rows."""


class WindowAssembler:
    """Takes rows from the source in merge order and makes windows of them.

    Args:
        source: Holds the rows.
        features: Makes ids and weights.
        dictionaries: Fingerprint of what it makes them with.
        num_shards: Ranks that share the stream.
        value_format: Wire format of a row.
        topic: Where the rows come from.
        bad_rows: Keeps those that are none.
        sends_unknown: Whether values out of vocabulary go along, for a trainer that learns them.
        watch: Is shown (label float32[rows], dense float64[rows, 13], oov uint32[rows]) of each
            window.
    """

    def __init__(
        self,
        source: RowSource,
        features: FeatureBuilder,
        dictionaries: int,
        num_shards: int,
        value_format: str,
        topic: str,
        bad_rows: BadRowKeeper,
        sends_unknown: bool = False,
        watch: Callable[[Array, Array, Array], None] = lambda labels, dense, oov: None,
    ) -> None:
        self._source = source
        self._features = features
        self._dictionaries = dictionaries
        self._num_shards = num_shards
        self._value_format = value_format
        self._topic = topic
        self._bad_rows = bad_rows
        self._sends_unknown = sends_unknown
        self._watch = watch
        self._position = Position({})
        self._session = 0

    def begin(self, commit: Commit) -> None:
        """Drops what is held and reads on from a position, for a session."""
        self._position = commit.position
        self._session = commit.session
        self._bad_rows.begin(commit.position)
        self._source.seek(commit.position)

    def take(self, limit: int) -> Optional[Array]:
        """A window of at most ``limit`` rows in merge order, or None when none can be taken yet.

        The bad rows that it covers, and those right behind it, are safe when it is returned.

        Raises:
            BrokenFeedError: Too many of the last rows are bad.
        """
        parsed = self._parse(limit)
        if not len(parsed.place):
            return None
        good_partition = parsed.partition[parsed.rows.index]
        good_counts = [
            int(np.count_nonzero(good_partition == number)) for number in range(len(parsed.held))
        ]
        seen = np.bincount(parsed.partition, minlength=len(parsed.held))
        exhausted = [
            held.exhausted and seen[number] == len(held.values)
            for number, held in enumerate(parsed.held)
        ]
        merged = merge_order(good_counts, exhausted, self._first_turn(parsed.held), limit)
        rows = len(merged[0]) - len(merged[0]) % self._num_shards
        partition, place = merged[0][:rows], merged[1][:rows]
        first_good = np.concatenate(([0], np.cumsum(good_counts)[:-1])).astype(np.int64)
        chosen = first_good[partition] + place
        window = self._make_window(parsed, chosen) if rows else None
        self._let_go(parsed, chosen)
        return window

    def _parse(self, limit: int) -> _Parsed:
        """Parses the rows that the merge would take if all of them were good."""
        held = self._source.held(limit)
        counts = [len(rows.values) for rows in held]
        partition, place = merge_order(
            counts, [rows.exhausted for rows in held], self._first_turn(held), limit
        )
        order = np.lexsort((place, partition))
        taken = np.bincount(partition, minlength=len(held))
        values = [value for rows, count in zip(held, taken) for value in rows.values[: int(count)]]
        parsed = parse_messages(values, self._value_format)
        return _Parsed(held, parsed, partition[order], place[order])

    def _first_turn(self, held: Sequence[HeldRows]) -> int:
        numbers = [rows.partition for rows in held]
        last = self._position.last_partition
        return (numbers.index(last) + 1) % len(numbers) if last in numbers else 0

    def _make_window(self, parsed: _Parsed, chosen: Array) -> Array:
        """The window of the chosen good rows, which are given in stream order."""
        message = parsed.rows.index[chosen]
        held_number, place = parsed.partition[message], parsed.place[message]
        numbers = np.array([rows.partition for rows in parsed.held], dtype=np.int32)
        offset = np.empty(len(chosen), dtype=np.int64)
        timestamp = np.empty(len(chosen), dtype=np.int64)
        start = np.empty(len(chosen), dtype=np.int64)
        for number, rows in enumerate(parsed.held):
            here = held_number == number
            if here.any():
                offset[here] = rows.offset[place[here]]
                timestamp[here] = rows.timestamp[place[here]]
                behind = offset[here][:-1] + 1
                start[here] = np.concatenate(([self._position.offsets[rows.partition]], behind))
        partition = numbers[held_number]
        ids, weights = self._features.build(parsed.rows)
        labels, oov = parsed.rows.label[chosen], self._features.oov(ids[chosen])
        self._watch(labels, parsed.rows.numbers[chosen], oov)
        window = make_window(
            ids[chosen],
            weights[chosen],
            labels,
            Provenance(partition, start, offset, timestamp),
            self._num_shards,
            self._session,
            self._dictionaries,
            oov,
            self._unknown(parsed.rows, ids, chosen),
            self._features.dense_transform,
        )
        self._position = advance(self._position, partition, offset)
        return window

    def _unknown(self, rows: ParsedRows, ids: Array, chosen: Array) -> Optional[UnknownValues]:
        if not self._sends_unknown:
            return None
        unknown = self._features.unknown(rows, ids)
        return UnknownValues(unknown.values[chosen], unknown.free_ids)

    def _let_go(self, parsed: _Parsed, chosen: Array) -> None:
        """Drops the taken rows and the bad rows among and right behind them from the source."""
        turn = np.full(len(parsed.place), len(chosen), dtype=np.int64)
        turn[parsed.rows.index[chosen]] = np.arange(len(chosen))
        good = np.zeros(len(parsed.place), dtype=bool)
        good[parsed.rows.index] = True
        gone: list[Array] = []
        ends: dict[int, int] = {}
        for number, rows in enumerate(parsed.held):
            messages = np.flatnonzero(parsed.partition == number)
            staying = np.flatnonzero(good[messages] & (turn[messages] == len(chosen)))
            messages = messages[: staying[0]] if staying.size else messages
            if not messages.size:
                continue
            # A bad row's turn is that of the next row, which covers it.
            turn[messages] = np.minimum.accumulate(turn[messages][::-1])[::-1]
            gone.append(messages)
            ends[rows.partition] = int(rows.offset[parsed.place[messages[-1]]]) + 1
        if not gone:
            return
        let_go = np.concatenate(gone)
        let_go = let_go[np.argsort(turn[let_go], kind="stable")]
        self._bad_rows.keep(self._letters(parsed, let_go[~good[let_go]]), good[let_go], ends)
        for partition, messages in zip(ends, gone):
            self._source.drop(partition, len(messages))

    def _letters(self, parsed: _Parsed, messages: Array) -> list[DeadLetter]:
        """The letters of some bad messages."""
        bad_by_message = {row.index: row for row in parsed.rows.bad}
        now = datetime.now(timezone.utc)
        letters = []
        for message in messages.tolist():
            rows, place = parsed.held[parsed.partition[message]], int(parsed.place[message])
            bad, offset = bad_by_message[message], int(rows.offset[place])
            letters.append(
                DeadLetter(
                    *(self._topic, rows.partition, offset, rows.values[place]),
                    *(bad.column, bad.reason, now),
                )
            )
        return letters


class OtherRanks(RuntimeError):  # noqa: N818
    """The trainer has another number of ranks than this consumer has shards."""


class SessionFollower:
    """Looks at the group's commit once a second for a trainer that has (re)started."""

    def __init__(self, source: RowSource, session: int, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._session = session
        self._looked_at = clock()
        self._pending: Optional[Commit] = None

    def has_news(self) -> bool:
        """Whether another session has committed since."""
        now = self._clock()
        if self._pending is None and now - self._looked_at >= FOLLOW_SECONDS:
            self._looked_at = now
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
    """Where to begin; makes sure that the group has a commit before any trainer looks for one."""
    position = source.resolve_start(start)
    committed = source.committed() if start == "committed" else None
    if committed is not None:
        return committed
    commit = Commit(position, session=0)
    source.commit(commit)
    return commit


def consume(
    source: RowSource,
    sender: WindowSender,
    assembler: WindowAssembler,
    rule: ClosingRule,
    first: Commit,
    flag: StopFlag,
    counts: ConsumerCounts,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Runs until the flag is set.

    Raises:
        SourceError: The broker stayed away for too long.
        ChannelError: The channel did.
        BrokenFeedError: Too many of the last rows are bad.
        OtherRanks: The trainer has another number of ranks than there are shards.
        WritingStopped: The flag was set while bad rows were being written.
    """
    follower = SessionFollower(source, first.session, time.monotonic)
    assembler.begin(first)
    logger.info("reading from %s for session %d", first.position, first.session)
    status_at = time.monotonic()

    def give_up() -> bool:
        return flag.is_set() or follower.has_news()

    while not flag.is_set():
        if follower.has_news():
            commit = follower.news()
            check_ranks(commit, sender.num_shards)
            logger.info("trainer session %d: back to %s", commit.session, commit.position)
            assembler.begin(commit)
        sender.check()  # with nothing to send it would not notice that the queue is gone
        source.poll(POLL_SECONDS if source.waiting() < rule.full_rows else 0.0)
        rows = rule.rows_to_close(source.waiting(), time.monotonic())
        window = assembler.take(rows) if rows else None
        if window is not None and sender.send_window(window, give_up):
            counts.windows += 1
            counts.rows += len(window)
            logger.debug("window %d: %d rows", counts.windows, len(window))
        look()
        if time.monotonic() - status_at >= STATUS_SECONDS:
            status_at = time.monotonic()
            logger.info("%s, %d rows waiting", describe(counts), source.waiting())


def check_ranks(commit: Commit, num_shards: int) -> None:
    """Refuses a trainer that would not read all the shards, or would wait for more.

    Raises:
        OtherRanks: Names both numbers.
    """
    if commit.ranks not in (0, num_shards):
        raise OtherRanks(
            f"trainer session {commit.session} has {commit.ranks} rank(s), this consumer was "
            f"started with --num_shards={num_shards}: both must be equal"
        )


def describe(counts: ConsumerCounts) -> str:
    """The counts as one phrase."""
    return f"consumed {counts.windows} windows, {counts.rows} rows, {counts.bad_rows} bad rows"
