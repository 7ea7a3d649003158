"""Sends corrected rows back to where their dead letters came from, each exactly once.

Each row takes three steps:

1. Its intent is written to the dead-letter topic, with the end of the origin's partition.
2. The row is sent, with its origin as key.
3. Its dead letter is marked as replayed.

Each step is acknowledged before the next begins. A replay that was killed in between leaves an
intent without a mark. Then the next replay searches for the row from that end on, and sends it only
if it is not there. Two replays of one topic must not run at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, MessageSizeTooLargeError

from src.cluster.access import Needs
from src.cluster.broker import SourceError
from src.cluster.settings import ClientSettings
from src.dead_letters.dead_letters import (
    REPLAYED,
    REPLAYING,
    DeadLetter,
    DeadLetters,
    Message,
    dead_topic,
    deliver,
    now_text,
    open_producer,
    open_topic,
    read_dead_letter_topic,
)
from src.rows.parsing import parse_messages
from src.stream.closing import close_producer
from src.stream.partition_reader import records_between

REPLAYED_FROM = "replayed-from"
CHUNK_ROWS = 1_000
DELIVERY_SECONDS = 30.0
MAX_ROW_BYTES = 1 << 20  # Kafka's default, and what producer.py sends
WAIT_SECONDS = 0.005


@dataclass(frozen=True)
class Correction:
    """A corrected row: the dead letter's origin, ``topic:partition:offset``, and the new value."""

    origin: str
    value: bytes | None


@dataclass
class ReplayResult:
    """What became of some corrections, by origin.

    Attributes:
        replayed: The rows sent, or in a dry run those that would be.
        replayed_before: The rows that an earlier replay had sent already.
        refused: The rows not sent, and why.
    """

    replayed: list[str] = field(default_factory=list)
    replayed_before: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def replay(
    cluster: str | ClientSettings,
    topic: str,
    corrections: Sequence[Correction],
    value_format: str = "tsv",
    dry_run: bool = False,
) -> ReplayResult:
    """Sends corrected rows to the partitions that their dead letters came from.

    A row is refused if it is still bad, has no dead letter, or is listed twice; the others are
    sent. Replays that were interrupted are finished first, whatever their rows.

    Args:
        cluster: host:port,... or all settings of the connection.
        topic: The topic.
        corrections: The rows.
        value_format: "tsv" or "json", the format of the topic's values.
        dry_run: Only read, write nothing.

    Raises:
        SourceError: No broker answers, or there is no such topic.
    """
    result = ReplayResult()
    both = (topic, dead_topic(topic))
    with open_topic(cluster, topic, Needs(both, () if dry_run else both)) as reader:
        dead_letters = read_dead_letter_topic(reader, topic)
        ends = _ends(reader, topic)
        search = _search_rows(reader, dead_letters, ends)
        wanted = _choose(corrections, value_format, dead_letters, search, result)
        outstanding = dead_letters.outstanding
        for origin in [key for key in wanted if outstanding[key].partition not in ends]:
            partition = outstanding[origin].partition
            result.refused.append((origin, f"{topic} has no partition {partition}"))
            del wanted[origin]
        if dry_run:
            result.replayed = list(wanted)
            return result
        if search.delivered or wanted:
            rows = [_Row(outstanding[origin], value) for origin, value in wanted.items()]
            _write(cluster, topic, search.delivered, rows, ends, result)
    return result


def _ends(reader: KafkaConsumer, topic: str) -> dict[int, int]:
    numbers = sorted(reader.partitions_for_topic(topic) or ())
    found = reader.end_offsets([TopicPartition(topic, number) for number in numbers])
    return {handle.partition: int(offset) for handle, offset in found.items()}


@dataclass
class _Search:
    """What is known of the replays that were interrupted.

    Attributes:
        delivered: Origins of the rows that are in the topic.
        unclear: Origin → why nobody can tell, for rows that may be in the topic.
    """

    delivered: set[str] = field(default_factory=set)
    unclear: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    """A corrected row to be sent, and the dead letter that it replaces."""

    dead_letter: DeadLetter
    value: bytes


def _search_rows(
    reader: KafkaConsumer, dead_letters: DeadLetters, ends: Mapping[int, int]
) -> _Search:
    """Searches for the rows whose replay began, from where their partition ended then."""
    search = _Search()
    by_partition: dict[int, dict[str, int]] = {}
    for origin, end in dead_letters.replaying.items():
        partition = int(origin.split(":")[1])
        by_partition.setdefault(partition, {})[origin] = end
    for partition, begun in by_partition.items():
        if partition not in ends:
            continue
        handle = TopicPartition(dead_letters.topic, partition)
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
    dead_letters: DeadLetters,
    search: _Search,
    result: ReplayResult,
) -> dict[str, bytes]:
    """Returns the rows to be sent, by origin; the others go to the result."""
    values = [correction.value for correction in corrections]
    parsed = parse_messages(values, value_format)
    faults = {bad.index: f"{bad.column}: {bad.reason}" for bad in parsed.bad}
    wanted: dict[str, bytes] = {}
    for place, correction in enumerate(corrections):
        origin, value = correction.origin, correction.value
        if origin in dead_letters.replayed or origin in search.delivered:
            result.replayed_before.append(origin)
        elif origin not in dead_letters.outstanding:
            result.refused.append((origin, f"{dead_letters.topic} has no such dead letter"))
        elif origin in wanted:
            result.refused.append((origin, "it is listed twice, the first one counts"))
        elif place in faults:
            result.refused.append((origin, faults[place]))
        elif origin in search.unclear:
            result.refused.append((origin, search.unclear[origin]))
        elif value is not None:
            wanted[origin] = value
    return wanted


def _write(
    cluster: str | ClientSettings,
    topic: str,
    delivered: Iterable[str],
    rows: Sequence[_Row],
    ends: Mapping[int, int],
    result: ReplayResult,
) -> None:
    """Marks what was delivered before, and sends the rows."""
    try:
        producer = open_producer(cluster, DELIVERY_SECONDS, MAX_ROW_BYTES)
    except (KafkaError, ValueError) as error:
        raise SourceError(f"no broker answers at {cluster}: {error}") from None
    try:
        _deliver_all(producer, [_mark(topic, origin) for origin in sorted(delivered)])
        for start in range(0, len(rows), CHUNK_ROWS):
            _send_chunk(producer, rows[start : start + CHUNK_ROWS], ends, result)
    except KafkaError as error:
        raise SourceError(
            f"the replay of {topic} was interrupted, run it again to finish it: {error}"
        ) from None
    finally:
        close_producer(producer)


def _send_chunk(
    producer: KafkaProducer,
    rows: Sequence[_Row],
    ends: Mapping[int, int],
    result: ReplayResult,
) -> None:
    _deliver_all(producer, [_intent(row.dead_letter, ends) for row in rows])
    outcomes = deliver(producer, [_message(row) for row in rows], _wait)
    done = [row.dead_letter.origin for row, error in zip(rows, outcomes) if error is None]
    _deliver_all(producer, [_mark(rows[0].dead_letter.topic, origin) for origin in done])
    result.replayed += done
    for row, error in zip(rows, outcomes):
        if isinstance(error, MessageSizeTooLargeError):
            result.refused.append((row.dead_letter.origin, f"larger than {MAX_ROW_BYTES} bytes"))
        elif error is not None:
            raise error


def _deliver_all(producer: KafkaProducer, messages: Sequence[Message]) -> None:
    for error in deliver(producer, messages, _wait):
        if error is not None:
            raise error


def _wait() -> None:
    # The producer itself gives up after DELIVERY_SECONDS.
    time.sleep(WAIT_SECONDS)


def _intent(dead_letter: DeadLetter, ends: Mapping[int, int]) -> Message:
    headers = {REPLAYING: str(ends[dead_letter.partition])}
    return Message(dead_topic(dead_letter.topic), dead_letter.origin.encode(), None, headers)


def _message(row: _Row) -> Message:
    origin = row.dead_letter.origin
    headers = {REPLAYED_FROM: origin}
    topic, partition = row.dead_letter.topic, row.dead_letter.partition
    return Message(topic, origin.encode(), row.value, headers, partition)


def _mark(topic: str, origin: str) -> Message:
    return Message(dead_topic(topic), origin.encode(), None, {REPLAYED: now_text()})
