"""The scripts where a stream ends in what is no row, a topic is made anew, or a group is shared."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from examples.demo.script import Script
from examples.services.common import wait_until
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from src.dead_letters.dead_letters import read_dead_letters
from tests.integration.conftest import TopicFactory
from tests.integration.other_producers import (
    damage,
    segment,
    send_all,
    send_plain,
    transactional,
)
from tests.integration.pipeline import (
    BATCH_SIZE,
    CONSUMER_STOP_SECONDS,
    LONG,
    READING,
    DictionaryFiles,
    Pipeline,
    assert_stops,
    sample_files,
    wait_for,
)
from tests.integration.test_compacted_topics import (
    COMPACTED,
    compact_often,
    send_keyed,
    wait_for_offsets,
)
from tests.integration.test_topic_and_group import make_anew, subscribed

pytestmark = [pytest.mark.clusters, pytest.mark.slow]

NewPipeline = Callable[[int], Pipeline]
TRAINER_STOP_SECONDS = 10.0
FAST = ("--window_seconds=0.2",)


@pytest.fixture(scope="module")
def dictionaries(tmp_path_factory: pytest.TempPathFactory) -> DictionaryFiles:
    return DictionaryFiles.make(tmp_path_factory.mktemp("dictionaries"))


@pytest.fixture
def new_pipeline(
    tmp_path: Path,
    kafka_service: KafkaService,
    engine: EngineService,
    dictionaries: DictionaryFiles,
) -> Iterator[NewPipeline]:
    """Makes pipelines, each on a topic of its own with so many partitions."""
    with ExitStack() as stack:
        yield lambda partitions: stack.enter_context(
            Pipeline(tmp_path, kafka_service.bootstrap_servers, dictionaries, partitions)
        )


def lines_of(folder: Path, rows: int) -> list[bytes]:
    (file,) = sample_files(folder, rows, 1)
    return file.read_bytes().splitlines()


def trained_rows(pipeline: Pipeline) -> int:
    return sum(rows.rows for rows in pipeline.audit())


def assert_fails(script: Script, text: str) -> None:
    """Fails unless a script ends by itself with exit code 1, a line and no traceback."""
    assert script.wait(LONG) == 1, script.log()
    assert re.search(text, script.log()), script.log()
    assert "Traceback" not in script.log()


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "trainer killed"])
def test_a_stream_that_ends_in_no_row_is_covered_to_its_end_and_may_be_deleted(
    new_pipeline: NewPipeline, kafka_service: KafkaService, tmp_path: Path, killed: bool
) -> None:
    pipeline = new_pipeline(2)
    name, lines = pipeline.topic, lines_of(tmp_path, 4 * BATCH_SIZE)
    producer = transactional(kafka_service, name)
    consumer = pipeline.consumer(*FAST)
    trainer = pipeline.trainer("--save_checkpoint_steps=1")
    for number, (ending, rows) in enumerate(
        [
            (producer.commit_transaction, lines[:BATCH_SIZE]),
            (producer.abort_transaction, [b"never trained"] * 20),
            (producer.commit_transaction, lines[BATCH_SIZE : 2 * BATCH_SIZE]),
        ]
    ):
        producer.begin_transaction()
        send_all(producer, name, number % 2, rows)
        ending()
    send_plain(kafka_service, name, 1, [b"a bad row", None, b""])
    producer.begin_transaction()
    send_all(producer, name, 1, [b"aborted at the very end"])
    producer.abort_transaction()
    producer.close()
    end = {0: 2 * BATCH_SIZE + 2, 1: 26}
    assert wait_until(lambda: pipeline.committed() == end, LONG, 0.5), trainer.log()
    assert trained_rows(pipeline) == 2 * BATCH_SIZE
    trainer.stop(signal.SIGKILL if killed else signal.SIGTERM)
    consumer.stop(signal.SIGTERM)  # now and then a kill takes the engine along: test_crashes.py
    admin = KafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    admin.delete_records({TopicPartition(name, number): offset for number, offset in end.items()})
    admin.close()

    consumer = pipeline.consumer(*FAST)
    trainer = pipeline.trainer("--save_checkpoint_steps=1")
    for number in (0, 1):
        begin = (2 + number) * BATCH_SIZE
        send_plain(kafka_service, name, number, lines[begin : begin + BATCH_SIZE])
    assert wait_until(lambda: trained_rows(pipeline) == 4 * BATCH_SIZE, LONG, 0.2), trainer.log()
    consumer.stop(signal.SIGTERM)  # its successor begins after the end, where no row was
    consumer = pipeline.consumer(*FAST)
    wait_for(consumer, READING)
    send_plain(kafka_service, name, 0, lines[:BATCH_SIZE])
    assert wait_until(lambda: trained_rows(pipeline) == 5 * BATCH_SIZE, LONG, 0.2), trainer.log()
    assert_stops(trainer, signal.SIGTERM, TRAINER_STOP_SECONDS)
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
    assert "deleted already" not in consumer.log()
    assert len(read_dead_letters(pipeline.bootstrap_servers, name)) == 3


def test_an_open_transaction_holds_only_its_own_rows_back(
    new_pipeline: NewPipeline, kafka_service: KafkaService, tmp_path: Path
) -> None:
    pipeline = new_pipeline(2)
    name, lines = pipeline.topic, lines_of(tmp_path, 2 * BATCH_SIZE)
    producer = transactional(kafka_service, name)
    producer.begin_transaction()
    send_all(producer, name, 0, lines[:BATCH_SIZE])
    send_plain(kafka_service, name, 1, lines[BATCH_SIZE:])
    consumer = pipeline.consumer(*FAST)
    trainer = pipeline.trainer("--idle_seconds=3", "--report_steps=1")
    assert wait_until(lambda: trained_rows(pipeline) == BATCH_SIZE, LONG, 0.2), trainer.log()
    assert {rows.partition for rows in pipeline.audit()} == {1}
    wait_for(trainer, re.compile("no rows for 3 s: an open transaction holds rows back"))
    producer.commit_transaction()
    producer.close()
    assert trainer.wait(LONG) == 0, trainer.log()
    assert [rows.partition for rows in pipeline.audit()] == [1, 0]
    assert "lag 0 rows" in trainer.log()
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)


def test_a_topic_made_anew_ends_both_and_is_refused_afterwards(
    new_pipeline: NewPipeline, kafka_service: KafkaService, tmp_path: Path
) -> None:
    pipeline = new_pipeline(1)
    name, lines = pipeline.topic, lines_of(tmp_path, 3 * BATCH_SIZE)
    send_plain(kafka_service, name, 0, lines[: BATCH_SIZE + 10])
    consumer, trainer = pipeline.consumer(*FAST), pipeline.trainer()
    assert wait_until(lambda: trained_rows(pipeline) == BATCH_SIZE, LONG, 0.2), trainer.log()
    make_anew(kafka_service, name, 1)
    send_plain(kafka_service, name, 0, lines)
    assert_fails(consumer, f"topic {name} was deleted and made anew while it was in use")
    assert_fails(trainer, f"topic {name} was deleted and made anew while it was in use")
    assert trained_rows(pipeline) == BATCH_SIZE

    consumer = pipeline.consumer(*FAST)
    assert_fails(pipeline.trainer(), "is of another topic named .* --fresh sets it aside")
    fresh = pipeline.trainer("--fresh", "--max_steps=3")
    assert fresh.wait(LONG) == 0, fresh.log()
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)


def test_another_member_of_the_group_is_named_by_both_and_while_they_run(
    new_pipeline: NewPipeline, kafka_service: KafkaService, tmp_path: Path
) -> None:
    pipeline = new_pipeline(1)
    text = f"group {pipeline.name} has other members: somebody-else at 127.0.0.1"
    send_plain(kafka_service, pipeline.topic, 0, lines_of(tmp_path, BATCH_SIZE))
    with subscribed(kafka_service, pipeline.topic, pipeline.name):
        assert_fails(pipeline.consumer(*FAST), text)
    consumer = pipeline.consumer(*FAST)
    wait_for(consumer, READING)
    with subscribed(kafka_service, pipeline.topic, pipeline.name):
        assert_fails(pipeline.trainer(), text)
    trainer = pipeline.trainer()
    assert wait_until(lambda: trained_rows(pipeline) == BATCH_SIZE, LONG, 0.2), trainer.log()
    with subscribed(kafka_service, pipeline.topic, pipeline.name):
        wait_for(trainer, re.compile(text))
    assert_stops(trainer, signal.SIGTERM, TRAINER_STOP_SECONDS)
    assert pipeline.committed()[0] == BATCH_SIZE
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)


def test_a_damaged_message_ends_the_consumer_or_goes_to_the_dead_letters_and_is_met_once(
    new_pipeline: NewPipeline, kafka_service: KafkaService, tmp_path: Path
) -> None:
    pipeline = new_pipeline(1)
    name, lines = pipeline.topic, lines_of(tmp_path, BATCH_SIZE)
    send_plain(kafka_service, name, 0, lines)
    send_plain(kafka_service, name, 0, [b"damaged in a moment"])

    def wrong_checksum(batch: bytearray) -> None:
        batch[-1] ^= 1

    damage(segment(kafka_service, name, 0), -2, wrong_checksum, right_checksum=False)
    named = f"partition 0 of {name}: the message at offset {BATCH_SIZE} can't be read: the checksum"
    assert_fails(pipeline.consumer(*FAST), f"{named}.*--allow_loss goes on without")
    consumer = pipeline.consumer(*FAST, "--allow_loss")
    trainer = pipeline.trainer("--save_checkpoint_steps=1")
    assert wait_until(lambda: pipeline.committed()[0] == BATCH_SIZE + 1, LONG, 0.5), trainer.log()
    (letter,) = read_dead_letters(pipeline.bootstrap_servers, name)
    assert (letter.offset, letter.column) == (BATCH_SIZE, "message")
    assert letter.value is not None and b"damaged in a moment"[:-1] in letter.value
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
    consumer = pipeline.consumer(*FAST)  # now without --allow_loss
    wait_for(consumer, READING)
    assert_stops(trainer, signal.SIGTERM, TRAINER_STOP_SECONDS)
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)


def test_rows_that_are_compacted_away_are_no_loss_for_a_trainer_that_starts_again(
    kafka_service: KafkaService,
    engine: EngineService,
    dictionaries: DictionaryFiles,
    topic: TopicFactory,
    tmp_path: Path,
) -> None:
    name, address = topic(1, COMPACTED), kafka_service.bootstrap_servers
    compact_often(kafka_service)
    rows = [(f"{number}", line) for number, line in enumerate(lines_of(tmp_path, 2 * BATCH_SIZE))]
    with (
        KafkaProducer(bootstrap_servers=address, acks="all") as producer,
        Pipeline(tmp_path, address, dictionaries, 1, name) as pipeline,
    ):
        send_keyed(producer, name, rows)
        consumer, trainer = pipeline.consumer(*FAST), pipeline.trainer("--save_checkpoint_steps=1")
        assert wait_until(lambda: pipeline.committed() == {0: 100}, LONG, 0.5), trainer.log()
        trainer.stop(signal.SIGKILL)
        consumer.stop(signal.SIGTERM)
        send_keyed(producer, name, rows[:50] * 3)
        send_keyed(producer, name, [(f"last {key}", line) for key, line in rows[:50]])
        wait_for_offsets(kafka_service, name, [*range(50, 100), *range(200, 300)])

        consumer, trainer = pipeline.consumer(*FAST), pipeline.trainer("--report_steps=1")
        assert wait_until(lambda: trained_rows(pipeline) == 200, LONG, 0.2), trainer.log()
        assert_stops(trainer, signal.SIGTERM, TRAINER_STOP_SECONDS)
        assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
        assert pipeline.committed() == {0: 300}
        assert "lag 0 rows" in trainer.log()
        assert [(part.first_offset, part.last_offset) for part in pipeline.audit()] == [
            (0, 49),
            (50, 99),
            (200, 249),
            (250, 299),
        ]
