from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata
from mindspore import load_checkpoint

from examples.demo.script import Script
from examples.services.common import wait_until
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from src.dead_letters.dead_letters import read_dead_letters
from tests.integration.crashes import committed_rows, count_rows, equal_bit_for_bit
from tests.integration.pipeline import (
    BATCH_SIZE,
    CONSUMED,
    CONSUMER_STOP_SECONDS,
    LONG,
    LOSS_LINE,
    READING,
    WAITING_FOR_CONSUMER,
    AuditedRows,
    DictionaryFiles,
    Pipeline,
    assert_ends,
    assert_stops,
    assert_trained_once,
    growing_flags,
    sample_files,
    trained_offsets,
    wait_for,
)

pytestmark = pytest.mark.slow

NewPipeline = Callable[[int], Pipeline]
BY_AMOUNT = ("--window_size=300", "--max_window_size=300", "--window_seconds=600")
BY_TIME = ("--window_size=100000", "--window_seconds=0.2")
MET = re.compile("trainer session")
TRAINER_STOP_SECONDS = 10.0


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


@dataclass(frozen=True)
class Run:
    """The result of a run on 900 rows in two partitions."""

    loss_lines: list[str]
    loss_file: list[str]
    audit: list[AuditedRows]
    windows: int
    rows: int


def run_as_documented(pipeline: Pipeline, *wire: str) -> Run:
    """The producer first, then the consumer, then the trainer."""
    assert_ends(pipeline.producer(sample_files(pipeline.folder, 900, 2), *wire))
    consumer = pipeline.consumer(*BY_AMOUNT, *wire)
    assert_ends(pipeline.trainer("--max_steps=18"))
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
    windows, rows = consumed(consumer)
    loss_file = (pipeline.folder / "loss.log").read_text().splitlines()
    return Run(pipeline.loss_lines, loss_file, pipeline.audit(), windows, rows)


def consumed(consumer: Script) -> tuple[int, int]:
    """Windows and rows, after the consumer has ended."""
    counts = consumer.found(CONSUMED)
    assert counts is not None
    return int(counts[1]), int(counts[2])


@pytest.fixture(scope="module")
def documented_run(
    tmp_path_factory: pytest.TempPathFactory,
    kafka_service: KafkaService,
    engine: EngineService,
    dictionaries: DictionaryFiles,
) -> Run:
    folder = tmp_path_factory.mktemp("documented_run")
    with Pipeline(folder, kafka_service.bootstrap_servers, dictionaries, 2) as pipeline:
        return run_as_documented(pipeline)


def test_rows_of_two_partitions_are_each_trained_once_in_windows_closed_by_amount(
    documented_run: Run,
) -> None:
    assert_trained_once(documented_run.audit, 450, 450)
    assert documented_run.rows == 300 * documented_run.windows


def test_documented_loss_lines_go_to_stdout_and_to_the_loss_file(documented_run: Run) -> None:
    steps = [LOSS_LINE.fullmatch(line) for line in documented_run.loss_lines]
    assert [match and int(match[1]) for match in steps] == list(range(1, 19))
    assert documented_run.loss_file == documented_run.loss_lines


def test_json_wire_gives_the_very_losses_that_lines_give(
    new_pipeline: NewPipeline, documented_run: Run
) -> None:
    run = run_as_documented(new_pipeline(2), "--value_format=json")
    assert_trained_once(run.audit, 450, 450)
    assert run.loss_lines == documented_run.loss_lines


def test_rows_of_one_partition_are_each_trained_once_by_a_trainer_that_starts_again(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    pipeline = new_pipeline(1)
    consumer = pipeline.consumer(*BY_AMOUNT)
    assert_ends(pipeline.producer(sample_files(tmp_path, 900, 1)))
    assert_ends(pipeline.trainer("--max_steps=6"))
    assert_trained_once(pipeline.audit(), 300)
    assert_ends(pipeline.trainer("--idle_seconds=4"))
    assert_trained_once(pipeline.audit(), 900)
    checkpoints = {path.name for path in (tmp_path / "ckpt").glob("*.ckpt")}
    assert checkpoints == {"widedeep_train-1_6.ckpt", "widedeep_train-1_18.ckpt"}
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
    windows, rows = consumed(consumer)
    assert rows == 300 * windows


@pytest.mark.parametrize(
    ("partitions", "trainer_first"),
    [(1, True), (2, False)],
    ids=["trainer first", "consumer first"],
)
def test_rows_that_trickle_in_are_each_trained_once_in_windows_closed_by_time(
    new_pipeline: NewPipeline, tmp_path: Path, partitions: int, trainer_first: bool
) -> None:
    pipeline = new_pipeline(partitions)
    if trainer_first:
        trainer = pipeline.trainer("--max_steps=12")
        wait_for(trainer, WAITING_FOR_CONSUMER)
        consumer = pipeline.consumer(*BY_TIME)
    else:
        consumer = pipeline.consumer(*BY_TIME)
        wait_for(consumer, READING)
        trainer = pipeline.trainer("--max_steps=12")
    wait_for(consumer, MET)
    files = sample_files(tmp_path, 600, partitions)
    producer = pipeline.producer(files, f"--rate={300 / partitions}")
    for script in (producer, trainer):
        assert_ends(script)
    assert_trained_once(pipeline.audit(), *[600 // partitions] * partitions)
    assert_stops(consumer, signal.SIGINT, CONSUMER_STOP_SECONDS)
    windows, rows = consumed(consumer)
    assert rows == 600
    assert windows > 4  # two seconds of rows


def test_rows_of_a_stream_that_falls_silent_are_trained_though_their_batch_is_not_full(
    new_pipeline: NewPipeline, dictionaries: DictionaryFiles, tmp_path: Path
) -> None:
    pipeline = new_pipeline(2)
    growing = growing_flags(dictionaries)
    consumer = pipeline.consumer(*BY_TIME, *growing)
    trainer = pipeline.trainer(*growing, "--batch_seconds=0.5", "--save_checkpoint_steps=1")
    wait_for(consumer, MET)
    sent = 0
    for rows in (2 * BATCH_SIZE + 20, 10):
        assert_ends(pipeline.producer(sample_files(tmp_path, rows, 2)))
        sent += rows
        assert await_committed(pipeline, sent), trainer.log()
    assert_stops(trainer, signal.SIGTERM, TRAINER_STOP_SECONDS)
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
    wanted = {(partition, offset): 1 for partition in (0, 1) for offset in range(sent // 2)}
    assert count_rows(pipeline.audit()) == wanted
    report = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert report["life"]["rows"] == sent
    assert report["lag_rows"] == 0
    assert len(pipeline.loss_lines) > sent // BATCH_SIZE


def await_committed(pipeline: Pipeline, rows: int) -> bool:
    """Whether the group commits so many rows as trained."""
    servers = pipeline.bootstrap_servers
    return wait_until(lambda: committed_rows(pipeline, servers) == rows, LONG, 0.1)


def test_bad_rows_are_named_and_kept_and_the_rows_between_them_are_trained(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    pipeline = new_pipeline(1)
    (file,) = sample_files(tmp_path, 100, 1)
    lines = file.read_bytes().splitlines()
    lines[10:10] = [b"", b"no row"]
    lines[60:60] = [b"2" + lines[0][1:], lines[0].replace(b"\t", b"\tten", 1)]
    lines.append(b"\xff" * 40)
    file.write_bytes(b"\n".join(lines) + b"\n")
    consumer = pipeline.consumer()
    assert_ends(pipeline.producer([file]))
    assert_ends(pipeline.trainer("--max_steps=2"))
    assert [rows.rows for rows in pipeline.audit()] == [50, 50]
    assert pipeline.audit()[-1].last_offset == 103
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
    named = re.findall(r"bad row: partition 0, offset (\d+), (\w+): \S", consumer.log())
    bad = {(int(offset), column) for offset, column in named}
    assert bad == {(10, "row"), (11, "row"), (60, "label"), (61, "I1"), (104, "row")}
    counts = consumer.found(CONSUMED)
    assert counts is not None and counts[3] == "5"
    kept = read_dead_letters(pipeline.bootstrap_servers, pipeline.topic)
    assert {(each.offset, each.column) for each in kept} == bad
    assert [each.value for each in kept] == [lines[each.offset] for each in kept]


def test_loss_that_is_not_finite_ends_the_trainer_and_the_last_good_checkpoint_stays(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    pipeline = new_pipeline(1)
    (file,) = sample_files(tmp_path, 200, 1)
    pipeline.consumer("--window_size=50")
    assert_ends(pipeline.producer([file]))
    trainer = pipeline.trainer("--save_checkpoint_steps=1", "--deep_learning_rate=1e30")
    assert trainer.wait(LONG) == 1
    errors = [line for line in trainer.log().splitlines() if " ERROR " in line]
    assert len(errors) == 1 and "the loss is not finite: epoch: 1, step: " in errors[0]
    good = [line for line in pipeline.loss_lines if LOSS_LINE.fullmatch(line)]
    assert good == pipeline.loss_lines[:-1]
    assert len(good) >= 1
    saved = {int(path.stem.rpartition("_")[2]) for path in (tmp_path / "ckpt").glob("*.ckpt")}
    assert 1 <= max(saved) <= len(good)  # it is written while training goes on


def test_signals_stop_trainer_and_consumer_while_rows_flow(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    pipeline = new_pipeline(2)
    consumer, trainer = pipeline.consumer(*BY_TIME), pipeline.trainer()
    wait_for(consumer, MET)
    pipeline.producer(sample_files(tmp_path, 20_000, 2), "--rate=100")
    assert wait_until(lambda: len(pipeline.loss_lines) >= 3, LONG)
    assert_stops(trainer, signal.SIGINT, TRAINER_STOP_SECONDS)
    trained = trained_offsets(pipeline.audit())
    assert trained == {part: list(range(len(offsets))) for part, offsets in trained.items()}
    step = sum(map(len, trained.values())) // BATCH_SIZE
    assert (tmp_path / "ckpt" / f"widedeep_train-1_{step}.ckpt").exists()
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_producer_when_all_it_has_sent_is_delivered(
    new_pipeline: NewPipeline, tmp_path: Path, number: signal.Signals
) -> None:
    producer = new_pipeline(2).producer(sample_files(tmp_path, 20_000, 2), "--rate=1000")
    wait_for(producer, re.compile(r"output2.tsv: [1-9]\d* rows"))
    assert_stops(producer, number, CONSUMER_STOP_SECONDS)
    produced = producer.found(re.compile(r"produced (\d+) rows from 2 files"))
    assert produced is not None
    assert 0 < int(produced[1]) < 20_000


@pytest.mark.parametrize(
    ("number", "trainer_first"), [(signal.SIGTERM, True), (signal.SIGINT, False)]
)
def test_signal_stops_trainer_and_consumer_in_either_order_while_nothing_flows(
    new_pipeline: NewPipeline, number: signal.Signals, trainer_first: bool
) -> None:
    pipeline = new_pipeline(1)
    consumer, trainer = pipeline.consumer(), pipeline.trainer()
    wait_for(consumer, MET)
    if trainer_first:
        assert_stops(trainer, number, TRAINER_STOP_SECONDS)
        assert_stops(consumer, number, CONSUMER_STOP_SECONDS)
    else:
        assert_stops(consumer, number, CONSUMER_STOP_SECONDS)
        wait_for(trainer, re.compile("the channel is gone"))
        assert_stops(trainer, number, TRAINER_STOP_SECONDS)
    assert pipeline.loss_lines == []


def test_signal_stops_a_trainer_that_waits_for_its_first_consumer(
    new_pipeline: NewPipeline,
) -> None:
    trainer = new_pipeline(1).trainer()
    wait_for(trainer, WAITING_FOR_CONSUMER)
    assert_stops(trainer, signal.SIGTERM, TRAINER_STOP_SECONDS)


def test_a_growing_vocabulary_and_crosses_go_on_bit_by_bit_where_a_trainer_has_left_them(
    new_pipeline: NewPipeline, dictionaries: DictionaryFiles, tmp_path: Path
) -> None:
    growing = growing_flags(dictionaries)
    trainer_flags = [*growing, "--expire_rows=100", "--deep_pairs"]
    files = sample_files(tmp_path, 900, 2)
    checkpoints = []
    for cuts in ([18], [7, 11]):
        pipeline = new_pipeline(2)
        assert_ends(pipeline.producer(files))
        consumer = pipeline.consumer("--window_size=300", *growing)
        for steps in cuts:
            assert_ends(pipeline.trainer(*trainer_flags, f"--max_steps={steps}", "--seed=2"))
        assert "ids freed, in no row for 100 rows" in pipeline.last_log()
        assert_trained_once(pipeline.audit(), 450, 450)
        assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
        checkpoints.append(load_checkpoint(str(tmp_path / "ckpt" / "widedeep_train-1_18.ckpt")))
        (tmp_path / "ckpt").rename(tmp_path / f"ckpt{len(cuts)}")
        (tmp_path / "audit.jsonl").unlink()
    whole, resumed = ({name: item.asnumpy() for name, item in each.items()} for each in checkpoints)
    assert len(whole["vocabulary"]) > 0
    assert np.count_nonzero(whole["cross_weight"]) > 1000
    assert equal_bit_for_bit(whole, resumed)


def test_after_a_commit_of_somebody_else_the_trainer_takes_its_stream_back(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    pipeline = new_pipeline(1)
    (file,) = sample_files(tmp_path, 900, 1)
    lines = file.read_bytes().splitlines(keepends=True)
    halves = tmp_path / "first.tsv", tmp_path / "second.tsv"
    for half, rows in zip(halves, (lines[:450], lines[450:])):
        half.write_bytes(b"".join(rows))
    consumer = pipeline.consumer(*BY_TIME)
    assert_ends(pipeline.producer([halves[0]]))
    trainer = pipeline.trainer("--max_steps=18", "--save_checkpoint_steps=5")
    assert wait_until(lambda: len(pipeline.loss_lines) == 9, LONG, 0.05), trainer.log()
    # Its commit at step 5 comes beside training; after the stranger's it would hide that.
    assert await_committed(pipeline, 5 * BATCH_SIZE), trainer.log()
    stranger = KafkaConsumer(bootstrap_servers=pipeline.bootstrap_servers, group_id=pipeline.name)
    topic = TopicPartition(pipeline.topic, 0)
    stranger.commit({topic: OffsetAndMetadata(0, "", -1)})
    stranger.close(autocommit=False)
    wait_for(consumer, re.compile("trainer session 0: back to 0:0"))
    assert_ends(pipeline.producer([halves[1]]))
    assert_ends(trainer)
    assert_trained_once(pipeline.audit(), 900)
    assert "only windows of session 0 came, which is not this trainer's" in trainer.log()
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
