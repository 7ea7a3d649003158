"""Sends corrected rows back to where their dead letters came from, each exactly once.

For each row an intent is written to the dead-letter topic first, with the end of the origin's
partition; then the row is sent, with its origin as key; then the letter is marked as replayed. Each
step is acknowledged before the next begins. A replay that was killed in between leaves an intent
without a mark: the next one looks for the row from that end on, and sends it only if it is not
there. Two replays of one topic must not run at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, MessageSizeTooLargeError

from src.rows.criteo import parse_messages
from src.stream.broker import SourceError
from src.stream.dead_letters import (
    REPLAYED,
    REPLAYING,
    DeadLetter,
    LetterBook,
    Message,
    close_producer,
    dead_topic,
    deliver,
    looking,
    now_text,
    open_producer,
    read_book,
)
from src.stream.partition_reader import records_between

REPLAYED_FROM = "replayed-from"
CHUNK_ROWS = 1_000
DELIVERY_SECONDS = 30.0
MAX_ROW_BYTES = 1 << 20  # Kafka's default, and what producer.py sends
WAIT_SECONDS = 0.005


@dataclass(frozen=True)
class Correction:
    """A corrected row: the letter's origin, ``topic:partition:offset``, and the new value."""

    origin: str
    value: Optional[bytes]


@dataclass
class ReplayResult:
    """What became of some corrections, by origin.

    Attributes:
        replayed: The rows sent, or in a dry run those that would be.
        before: The rows that an earlier replay had sent already.
        refused: The rows not sent, and why.
    """

    replayed: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def replay(
    bootstrap_servers: str,
    topic: str,
    corrections: Sequence[Correction],
    value_format: str = "tsv",
    dry_run: bool = False,
) -> ReplayResult:
    """Sends corrected rows to the partitions that their letters came from.

    A row that is still bad, that no letter asks for, or that comes twice is refused; the rest goes
    on. Replays that were cut short are finished first, of whichever rows.

    Args:
        bootstrap_servers: host:port,...
        topic: The topic.
        corrections: The rows.
        value_format: "tsv" or "json", the topic's wire.
        dry_run: Only look, write nothing.

    Raises:
        SourceError: No broker answers, or there is no such topic.
    """
    result = ReplayResult()
    with looking(bootstrap_servers, topic) as reader:
        book = read_book(reader, topic)
        ends = _ends(reader, topic)
        search = _look_for_rows(reader, book, ends)
        wanted = _choose(corrections, value_format, book, search, result)
        for origin in [key for key in wanted if book.outstanding[key].partition not in ends]:
            partition = book.outstanding[origin].partition
            result.refused.append((origin, f"{topic} has no partition {partition}"))
            del wanted[origin]
        if dry_run:
            result.replayed = list(wanted)
            return result
        if search.delivered or wanted:
            rows = [(book.outstanding[origin], value) for origin, value in wanted.items()]
            _write(bootstrap_servers, topic, search.delivered, rows, ends, result)
    return result


def _ends(reader: KafkaConsumer, topic: str) -> dict[int, int]:
    numbers = sorted(reader.partitions_for_topic(topic) or ())
    found = reader.end_offsets([TopicPartition(topic, number) for number in numbers])
    return {handle.partition: int(offset) for handle, offset in found.items()}


@dataclass
class _Search:
    """What is known of the replays that were cut short: rows that are there, rows that may be."""

    delivered: set[str] = field(default_factory=set)
    unclear: dict[str, str] = field(default_factory=dict)


def _look_for_rows(reader: KafkaConsumer, book: LetterBook, ends: Mapping[int, int]) -> _Search:
    """Looks for the rows whose replay began, from where their partition ended then."""
    search = _Search()
    by_partition: dict[int, dict[str, int]] = {}
    for origin, end in book.replaying.items():
        partition = int(origin.split(":")[1])
        by_partition.setdefault(partition, {})[origin] = end
    for partition, begun in by_partition.items():
        if partition not in ends:
            continue
        handle = TopicPartition(book.topic, partition)
        first = reader.beginning_offsets([handle])[handle]
        for origin, end in begun.items():
            if end < first:
                search.unclear[origin] = (
                    f"can't tell whether it was replayed: rows from offset {end} on are deleted"
                )
        begin = max(first, min(begun.values()))
        for record in records_between(reader, handle, begin, ends[partition]):
            origin = (record.key or b"").decode(errors="replace")
            if origin in begun:
                search.delivered.add(origin)
    return search


def _choose(
    corrections: Sequence[Correction],
    value_format: str,
    book: LetterBook,
    search: _Search,
    result: ReplayResult,
) -> dict[str, bytes]:
    """The rows to be sent, by origin; the others go to the result."""
    values = [correction.value for correction in corrections]
    parsed = parse_messages(values, value_format)
    faults = {bad.index: f"{bad.column}: {bad.reason}" for bad in parsed.bad}
    wanted: dict[str, bytes] = {}
    for place, correction in enumerate(corrections):
        origin, value = correction.origin, correction.value
        if origin in book.replayed or origin in search.delivered:
            result.before.append(origin)
        elif origin not in book.outstanding:
            result.refused.append((origin, f"{book.topic} has no such dead letter"))
        elif origin in wanted:
            result.refused.append((origin, "it comes twice, the first one counts"))
        elif place in faults:
            result.refused.append((origin, faults[place]))
        elif origin in search.unclear:
            result.refused.append((origin, search.unclear[origin]))
        elif value is not None:
            wanted[origin] = value
    return wanted


def _write(
    bootstrap_servers: str,
    topic: str,
    delivered: Iterable[str],
    rows: Sequence[tuple[DeadLetter, bytes]],
    ends: Mapping[int, int],
    result: ReplayResult,
) -> None:
    """Marks what was delivered before, and sends the rows."""
    try:
        producer = open_producer(bootstrap_servers, DELIVERY_SECONDS, MAX_ROW_BYTES)
    except (KafkaError, ValueError) as error:
        raise SourceError(f"no broker answers at {bootstrap_servers}: {error}") from None
    try:
        _deliver_all(producer, [_mark(topic, origin) for origin in sorted(delivered)])
        for start in range(0, len(rows), CHUNK_ROWS):
            _send_chunk(producer, rows[start : start + CHUNK_ROWS], ends, result)
    except KafkaError as error:
        raise SourceError(
            f"the replay of {topic} is cut short, run again it goes on: {error}"
        ) from None
    finally:
        close_producer(producer)


def _send_chunk(
    producer: KafkaProducer,
    rows: Sequence[tuple[DeadLetter, bytes]],
    ends: Mapping[int, int],
    result: ReplayResult,
) -> None:
    _deliver_all(producer, [_intent(letter, ends[letter.partition]) for letter, _ in rows])
    outcomes = deliver(producer, [_row(letter, value) for letter, value in rows], _wait)
    done = [letter for (letter, _), error in zip(rows, outcomes) if error is None]
    _deliver_all(producer, [_mark(letter.topic, letter.origin) for letter in done])
    result.replayed += [letter.origin for letter in done]
    for (letter, _), error in zip(rows, outcomes):
        if isinstance(error, MessageSizeTooLargeError):
            result.refused.append((letter.origin, f"larger than {MAX_ROW_BYTES} bytes"))
        elif error is not None:
            raise error


def _deliver_all(producer: KafkaProducer, messages: Sequence[Message]) -> None:
    for error in deliver(producer, messages, _wait):
        if error is not None:
            raise error


def _wait() -> None:
    # The producer itself gives up after DELIVERY_SECONDS.
    time.sleep(WAIT_SECONDS)


def _intent(letter: DeadLetter, end: int) -> Message:
    key = letter.origin.encode()
    return Message(dead_topic(letter.topic), key, None, {REPLAYING: str(end)})


def _row(letter: DeadLetter, value: bytes) -> Message:
    key = letter.origin.encode()
    headers = {REPLAYED_FROM: letter.origin}
    return Message(letter.topic, key, value, headers, letter.partition)


def _mark(topic: str, origin: str) -> Message:
    return Message(dead_topic(topic), origin.encode(), None, {REPLAYED: now_text()})
