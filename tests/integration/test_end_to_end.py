from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.local_services import EngineService, KafkaService, wait_until
from tests.integration.conftest import TopicFactory
from tests.integration.pipeline import (
    BATCH_SIZE,
    CONSUMED,
    CONSUMER_STOP_SECONDS,
    LONG,
    LOSS_LINE,
    READING,
    WAITING_FOR_CONSUMER,
    DictionaryFiles,
    Pipeline,
    assert_ends,
    assert_stops,
    assert_trained_once,
    sample_files,
    wait_for,
)

pytestmark = pytest.mark.slow

NewPipeline = Callable[[int], Pipeline]
BY_AMOUNT = ("--window_size=500", "--window_seconds=600")
BY_TIME = ("--window_size=100000", "--window_seconds=0.2")
TRAINER_STOP_SECONDS = 10.0


@pytest.fixture(scope="module")
def dictionaries(tmp_path_factory: pytest.TempPathFactory) -> DictionaryFiles:
    return DictionaryFiles.make(tmp_path_factory.mktemp("dictionaries"))


@pytest.fixture
def new_pipeline(
    tmp_path: Path,
    kafka_service: KafkaService,
    engine: EngineService,
    topic: TopicFactory,
    dictionaries: DictionaryFiles,
) -> Iterator[NewPipeline]:
    made: list[Pipeline] = []

    def create(num_partitions: int) -> Pipeline:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        name = topic(num_partitions=num_partitions)
        made.append(Pipeline(folder, kafka_service.bootstrap_servers, name, dictionaries))
        return made[-1]

    yield create
    for pipeline in made:
        pipeline.close()


@pytest.mark.parametrize("partitions", [1, 2])
def test_rows_produced_first_are_each_trained_once_in_windows_closed_by_amount(
    new_pipeline: NewPipeline, tmp_path: Path, partitions: int
) -> None:
    pipeline = new_pipeline(partitions)
    assert_ends(pipeline.producer(sample_files(tmp_path, 1500, partitions)))
    consumer = pipeline.consumer(*BY_AMOUNT)
    assert_ends(pipeline.trainer("--max_steps=30"))
    assert_trained_once(pipeline.audit(), [1500 // partitions] * partitions)
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)
    counts = consumer.found(CONSUMED)
    assert counts is not None
    assert int(counts[2]) == 500 * int(counts[1])  # no window was closed by time


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
    wait_for(consumer, re.compile("trainer session"))
    files = sample_files(tmp_path, 600, partitions)
    producer = pipeline.producer(files, f"--rate={300 / partitions}")
    for script in (producer, trainer):
        assert_ends(script)
    assert_trained_once(pipeline.audit(), [600 // partitions] * partitions)
    assert_stops(consumer, signal.SIGINT, CONSUMER_STOP_SECONDS)
    counts = consumer.found(CONSUMED)
    assert counts is not None
    assert int(counts[2]) == 600
    assert int(counts[1]) > 4  # two seconds of rows


def test_json_wire_gives_the_very_losses_that_lines_give(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    losses = []
    files = sample_files(tmp_path, 500, 2)
    for value_format in ("tsv", "json"):
        pipeline = new_pipeline(2)
        wire = f"--value_format={value_format}"
        producer = pipeline.producer(files, wire)
        pipeline.consumer(wire)
        assert_ends(producer)
        assert_ends(pipeline.trainer("--max_steps=10"))
        assert_trained_once(pipeline.audit(), [250, 250])
        losses.append(pipeline.loss_lines)
    assert losses[0] == losses[1]
    steps = [LOSS_LINE.fullmatch(line) for line in losses[0]]
    assert [int(match[1]) for match in steps if match] == list(range(1, 11))
    assert (pipeline.folder / "loss.log").read_text().splitlines() == losses[1]


def test_bad_rows_are_named_and_the_rows_between_them_are_trained(
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


def test_trainer_started_again_goes_on_behind_its_last_step_and_ends_when_idle(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    pipeline = new_pipeline(2)
    consumer = pipeline.consumer("--window_size=300")
    assert_ends(pipeline.producer(sample_files(tmp_path, 1030, 2)))
    assert_ends(pipeline.trainer("--max_steps=7"))
    assert len({rows.step for rows in pipeline.audit()}) == 7
    assert_ends(pipeline.trainer("--idle_seconds=3"))
    assert_trained_once(pipeline.audit(), [500, 500])  # the other 30 are no whole batch
    checkpoints = sorted(path.name for path in (pipeline.folder / "ckpt").glob("*.ckpt"))
    assert checkpoints == ["widedeep_train-1_20.ckpt", "widedeep_train-1_7.ckpt"]
    assert_stops(consumer, signal.SIGTERM, CONSUMER_STOP_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_every_script_while_rows_flow(
    new_pipeline: NewPipeline, tmp_path: Path, number: signal.Signals
) -> None:
    pipeline = new_pipeline(2)
    consumer, trainer = pipeline.consumer(*BY_TIME), pipeline.trainer()
    wait_for(consumer, re.compile("trainer session"))
    producer = pipeline.producer(sample_files(tmp_path, 20_000, 2), "--rate=100")
    assert wait_until(lambda: len(pipeline.loss_lines) >= 3, LONG)
    assert_stops(trainer, number, TRAINER_STOP_SECONDS)
    step = max(rows.step for rows in pipeline.audit())
    assert (pipeline.folder / "ckpt" / f"widedeep_train-1_{step}.ckpt").exists()
    per_partition = step * BATCH_SIZE // 2
    assert_trained_once(pipeline.audit(), [per_partition, per_partition])
    assert_stops(consumer, number, CONSUMER_STOP_SECONDS)
    assert_stops(producer, number, CONSUMER_STOP_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_consumer_and_trainer_while_nothing_flows(
    new_pipeline: NewPipeline, number: signal.Signals
) -> None:
    pipeline = new_pipeline(1)
    consumer, trainer = pipeline.consumer(), pipeline.trainer()
    wait_for(consumer, re.compile("trainer session"))
    assert_stops(consumer, number, CONSUMER_STOP_SECONDS)
    wait_for(trainer, re.compile("the channel is gone"))
    assert_stops(trainer, number, TRAINER_STOP_SECONDS)
    assert pipeline.loss_lines == []


def test_signal_stops_a_trainer_that_waits_for_its_first_consumer(
    new_pipeline: NewPipeline,
) -> None:
    pipeline = new_pipeline(1)
    trainer = pipeline.trainer()
    wait_for(trainer, WAITING_FOR_CONSUMER)
    assert_stops(trainer, signal.SIGTERM, TRAINER_STOP_SECONDS)
