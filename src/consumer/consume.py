"""The consumer's loop: rows of a topic → windows of features → the channel.

Guarantee: every row from the starting position on is part of exactly one window of a session, or it
is a bad row. Bad rows are logged, counted and kept before any later row is sent.

The consumer never commits what it has read; it follows the trainer's commits. It only publishes
where no row follows the last one sent. When a new session
appears among them, the consumer drops what it holds. It goes to the committed position and reads on
from there.
"""

from __future__ import annotations

import logging
import time
from typing import Callable

from src.channel.closing_rule import ClosingRule
from src.channel.sender import WindowSender
from src.consumer.counts import ConsumerCounts
from src.consumer.empty_stretches import EmptyStretches
from src.consumer.session_follower import SessionFollower, check_ranks
from src.consumer.window_assembler import WindowAssembler
from src.process.stop import StopFlag
from src.stream.position import Commit
from src.stream.row_source import RowSource

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
STATUS_SECONDS = 10.0


def consume(
    source: RowSource,
    sender: WindowSender,
    assembler: WindowAssembler,
    rule: ClosingRule,
    first: Commit,
    flag: StopFlag,
    counts: ConsumerCounts,
    on_round: Callable[[], None] = lambda: None,
) -> None:
    """Runs until the flag is set.

    Args:
        source: Holds the topic's rows.
        sender: Takes the windows.
        assembler: Makes windows of the source's rows.
        rule: Decides when a window closes.
        first: Where to start reading, and for which session.
        flag: The stop flag.
        counts: Its windows and rows are increased.
        on_round: Called once in each round of the loop.

    Raises:
        SourceError: The broker was unreachable for too long.
        ChannelError: The channel is gone.
        BrokenFeedError: Too many of the last rows are bad.
        OtherRanks: The trainer's number of ranks differs from the number of shards.
        WritingStopped: The flag was set while bad rows were being written.
    """
    follower = SessionFollower(source, first.session, time.monotonic)
    empty = EmptyStretches(source, time.monotonic)
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
        sender.check()  # without a window to send, nothing else would notice a lost channel
        source.poll(POLL_SECONDS if source.waiting() < rule.full_rows else 0.0)
        rows = rule.rows_to_close(source.waiting(), time.monotonic())
        window = assembler.take(rows) if rows else None
        if window is not None and sender.send_window(window, give_up):
            counts.windows += 1
            counts.rows += len(window)
            logger.debug("window %d: %d rows", counts.windows, len(window))
        empty.publish(assembler.row_offsets())
        on_round()
        if time.monotonic() - status_at >= STATUS_SECONDS:
            status_at = time.monotonic()
            _log_status(counts, source)


def _log_status(counts: ConsumerCounts, source: RowSource) -> None:
    logger.info("%s, %d rows waiting", counts, source.waiting())
    for partition, offsets in source.held_back().items():
        logger.info("partition %d: an open transaction holds %d offsets back", partition, offsets)
