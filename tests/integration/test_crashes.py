"""A part dies at a random moment: after a restart every row is trained once, to equal weights.

Each scenario streams the same 20,000 rows of two partitions, with the real scripts, a real broker
and a real engine. It kills or stops one part at random moments and starts it again. Then it
compares the result with an undisturbed run. ``make test-crashes`` runs them all and prints a table.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from examples.demo.script import Script
from examples.services.common import wait_until
from examples.services.engine_service import EngineService, engine_processes
from examples.services.kafka_service import KafkaService
from src.dead_letters.dead_letters import read_dead_letters
from src.stream.position import Commit, Position
from src.stream.row_source import RowSource
from tests.integration.crashes import (
    CONSUMER_FLAGS,
    OUTCOMES,
    ROWS,
    SAVE_EVERY,
    STEPS,
    TRAINER_FLAGS,
    Outcome,
    Stage,
    assert_exact,
    await_a_checkpoint_under_way,
    await_a_new_checkpoint,
    await_step,
    committed_rows,
    count_rows,
    cut_in_writing,
    final_weights,
    judge,
    moments,
    newest_step,
)
from tests.integration.pipeline import (
    BATCH_SIZE,
    LONG,
    DictionaryFiles,
    Pipeline,
    assert_ends,
    growing_flags,
    sample_files,
)

pytestmark = [pytest.mark.crashes, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("CRASH_KILLS", "5"))
"""How many times each scenario kills, each time at a moment from a seed of its own."""
ENGINE_KILLS = [signal.SIGKILL, signal.SIGTERM]
RECOVERY_SECONDS = 240.0
SIGNALS = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> list[Outcome]:
    """Collects the results of the scenarios; their table is printed at the end of the run."""
    return request.config.stash.setdefault(OUTCOMES, [])


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, kafka_service: KafkaService, engine: EngineService
) -> Stage:
    folder = tmp_path_factory.mktemp("crashes")
    made = Stage(folder, kafka_service, engine, DictionaryFiles.make(folder))
    with made.pipeline("reference") as pipeline:
        pipeline.consumer(*CONSUMER_FLAGS)
        finish(pipeline, pipeline.trainer(*TRAINER_FLAGS))
        made.reference = final_weights(pipeline.folder)
        undisturbed = judge("reference", 0, pipeline, made.reference)
    assert_exact(undisturbed)
    assert undisturbed.redone == 0
    return made


def finish(pipeline: Pipeline, trainer: Script) -> None:
    """Waits for the trainer's last step and stops it."""
    await_step(pipeline, trainer, STEPS, RECOVERY_SECONDS)
    # If the engine has just died, its client library may block the trainer for a minute.
    assert trainer.stop(signal.SIGTERM, timeout=LONG) == 0, trainer.log()


@SIGNALS
def test_trainer(stage: Stage, outcomes: list[Outcome], number: signal.Signals) -> None:
    in_writing = before_commit = 0
    with stage.pipeline(f"trainer_{number.name}") as pipeline:
        pipeline.consumer(*CONSUMER_FLAGS)
        for seed, step in enumerate(moments(number, KILLS)):
            trainer = pipeline.trainer(*TRAINER_FLAGS)
            await_step(pipeline, trainer, step)
            if number == signal.SIGTERM:
                assert trainer.stop(number) == 0, trainer.log()
                continue
            waits = (await_a_checkpoint_under_way, await_a_new_checkpoint, sleep_a_little(seed))
            waits[seed % 3](pipeline.folder)
            trainer.stop(number)
            in_writing += cut_in_writing(pipeline.folder)
            committed = committed_rows(pipeline, stage.kafka.bootstrap_servers)
            before_commit += committed < newest_step(pipeline.folder) * BATCH_SIZE
        finish(pipeline, pipeline.trainer(*TRAINER_FLAGS))
        outcome = judge(f"trainer {number.name}", KILLS, pipeline, stage.reference)
    if number == signal.SIGKILL:
        hits = f"{in_writing} inside a checkpoint, {before_commit} between checkpoint and commit"
        outcome = Outcome(**{**vars(outcome), "notes": hits})
    outcomes.append(outcome)
    assert_exact(outcome)
    if number == signal.SIGTERM:
        assert outcome.redone == 0
    else:
        assert in_writing and before_commit
        assert outcome.redone <= KILLS * 2 * SAVE_EVERY


def test_trainer_whose_vocabulary_grows_beside_crosses(
    stage: Stage, outcomes: list[Outcome]
) -> None:
    growing = growing_flags(stage.dictionaries)
    consumer_flags = [*CONSUMER_FLAGS, *growing]
    trainer_flags = [*TRAINER_FLAGS, *growing, "--expire_rows=1000", "--deep_pairs"]
    with stage.pipeline("growing_reference") as pipeline:
        pipeline.consumer(*consumer_flags)
        finish(pipeline, pipeline.trainer(*trainer_flags))
        reference = final_weights(pipeline.folder)
    assert len(reference["vocabulary"]) > 0
    assert reference["cross_weight"].any()
    with stage.pipeline("growing") as pipeline:
        pipeline.consumer(*consumer_flags)
        for seed, step in enumerate(moments(50, KILLS)):
            trainer = pipeline.trainer(*trainer_flags)
            await_step(pipeline, trainer, step)
            sleep_a_little(seed)(pipeline.folder)
            trainer.stop(signal.SIGKILL)
        trainer = pipeline.trainer(*trainer_flags)
        finish(pipeline, trainer)
        assert "ids freed, in no row for 1000 rows" in trainer.log()
        outcome = judge("growing vocabulary", KILLS, pipeline, reference)
    outcomes.append(outcome)
    assert_exact(outcome)


def sleep_a_little(seed: int) -> Callable[[Path], None]:
    pause = random.Random(seed).uniform(0, 0.2)
    return lambda folder: time.sleep(pause)


@SIGNALS
def test_consumer(stage: Stage, outcomes: list[Outcome], number: signal.Signals) -> None:
    with stage.pipeline(f"consumer_{number.name}") as pipeline:
        consumer = pipeline.consumer(*CONSUMER_FLAGS)
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        for step in moments(10 + number, KILLS):
            await_step(pipeline, trainer, step)
            code = consumer.stop(number)
            assert code == (0 if number == signal.SIGTERM else -number), consumer.log()
            consumer = pipeline.consumer(*CONSUMER_FLAGS)
        finish(pipeline, trainer)
        outcome = judge(f"consumer {number.name}", KILLS, pipeline, stage.reference)
    outcomes.append(outcome)
    assert_exact(outcome)
    assert outcome.redone == 0


@SIGNALS
def test_producer(stage: Stage, outcomes: list[Outcome], number: signal.Signals) -> None:
    name = f"producer_{number.name}"
    folder = stage.folder / name
    folder.mkdir()
    files = sample_files(folder, ROWS, 2)
    servers = stage.kafka.bootstrap_servers
    draw = random.Random(number)
    with Pipeline(folder, servers, stage.dictionaries, 2) as filling:
        for _ in range(KILLS):
            producer = filling.producer(files, "--resume", f"--rate={ROWS / 10}")
            await_more_rows(servers, filling.topic)
            time.sleep(draw.uniform(0, 0.5))
            producer.stop(number)
        assert rows_in(servers, filling.topic) < ROWS
        assert_ends(filling.producer(files, "--resume"))
    for partition, file in enumerate(files):
        assert values_of(servers, filling.topic, partition) == file.read_bytes().splitlines()
    with stage.pipeline(f"after_{name}", filling.topic) as pipeline:
        pipeline.consumer(*CONSUMER_FLAGS)
        finish(pipeline, pipeline.trainer(*TRAINER_FLAGS))
        outcome = judge(f"producer {number.name}", KILLS, pipeline, stage.reference)
    outcomes.append(outcome)
    assert_exact(outcome)


def await_more_rows(bootstrap_servers: str, topic: str) -> None:
    """Waits until a topic has grown."""
    before = rows_in(bootstrap_servers, topic)
    assert wait_until(lambda: rows_in(bootstrap_servers, topic) > before, LONG, 0.02)


def rows_in(bootstrap_servers: str, topic: str) -> int:
    """How many messages a topic of two partitions holds."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers)
    ends = consumer.end_offsets([TopicPartition(topic, 0), TopicPartition(topic, 1)])
    consumer.close()
    return sum(ends.values())


def values_of(bootstrap_servers: str, topic: str, partition: int) -> list[bytes]:
    """Every message of a partition."""
    handle = TopicPartition(topic, partition)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest")
    consumer.assign([handle])
    end, values = consumer.end_offsets([handle])[handle], list[bytes]()
    while len(values) < end:
        for records in consumer.poll(timeout_ms=1000).values():
            values += [record.value for record in records]
    consumer.close()
    return values


def test_engine_alone(stage: Stage, outcomes: list[Outcome]) -> None:
    """Its clients outlive it. Each time the engine's client library blocks them for a minute."""
    with stage.pipeline("engine") as pipeline:
        pipeline.consumer(*CONSUMER_FLAGS)
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        for number, step in zip(ENGINE_KILLS, moments(30, len(ENGINE_KILLS))):
            await_step(pipeline, trainer, step, RECOVERY_SECONDS)
            restart_engine(stage.engine, number)
        finish(pipeline, trainer)
        outcome = judge("engine alone", len(ENGINE_KILLS), pipeline, stage.reference)
    outcomes.append(outcome)
    assert_exact(outcome)
    assert outcome.redone == 0


def restart_engine(engine: EngineService, number: signal.Signals) -> None:
    if number == signal.SIGKILL:
        for process in engine_processes():
            process.kill()
    engine.stop()  # yrctl stop; after a kill it clears away what is left
    engine.start()


@SIGNALS
def test_engine_and_its_clients(
    stage: Stage, outcomes: list[Outcome], number: signal.Signals
) -> None:
    with stage.pipeline(f"engine_{number.name}") as pipeline:
        for step in moments(40 + number, KILLS):
            consumer = pipeline.consumer(*CONSUMER_FLAGS)
            trainer = pipeline.trainer(*TRAINER_FLAGS)
            await_step(pipeline, trainer, step)
            for script in (consumer, trainer):
                script.process.send_signal(number)
            codes = (consumer.wait(LONG), trainer.wait(LONG))
            assert codes == ((0, 0) if number == signal.SIGTERM else (-number, -number))
            restart_engine(stage.engine, number)
        pipeline.consumer(*CONSUMER_FLAGS)
        finish(pipeline, pipeline.trainer(*TRAINER_FLAGS))
        outcome = judge(f"engine+clients {number.name}", KILLS, pipeline, stage.reference)
    outcomes.append(outcome)
    assert_exact(outcome)


@SIGNALS
def test_broker(stage: Stage, outcomes: list[Outcome], number: signal.Signals) -> None:
    with stage.pipeline(f"broker_{number.name}") as pipeline:
        pipeline.consumer(*CONSUMER_FLAGS)
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        for step in moments(20 + number, KILLS):
            await_step(pipeline, trainer, step, RECOVERY_SECONDS)
            stage.kafka.kill() if number == signal.SIGKILL else stage.kafka.stop()
            stage.kafka.start()
        finish(pipeline, trainer)
        outcome = judge(f"broker {number.name}", KILLS, pipeline, stage.reference)
    outcomes.append(outcome)
    assert_exact(outcome)
    assert outcome.redone == 0


def test_torn_checkpoint(stage: Stage, outcomes: list[Outcome]) -> None:
    draw, named = random.Random(1), 0
    with stage.pipeline("torn") as pipeline:
        pipeline.consumer(*CONSUMER_FLAGS)
        for step in moments(1, KILLS):
            trainer = pipeline.trainer(*TRAINER_FLAGS)
            await_step(pipeline, trainer, step)
            assert trainer.stop(signal.SIGTERM) == 0, trainer.log()
            named += "using the checkpoint before it" in trainer.log()
            torn = (
                pipeline.folder / "ckpt" / f"widedeep_train-1_{newest_step(pipeline.folder)}.ckpt"
            )
            torn.chmod(0o600)
            os.truncate(torn, draw.randrange(torn.stat().st_size))
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        finish(pipeline, trainer)
        named += "using the checkpoint before it" in trainer.log()
        outcome = judge("checkpoint torn", KILLS, pipeline, stage.reference)
    outcomes.append(outcome)
    assert named == KILLS
    assert_exact(outcome)


def test_swapped_dictionary_is_refused_with_both_fingerprints(
    stage: Stage, outcomes: list[Outcome]
) -> None:
    folder = stage.folder / "other_dictionaries"
    folder.mkdir()
    other = DictionaryFiles.make(folder, rows=2000)
    with stage.pipeline("swapped") as pipeline:
        consumer = pipeline.consumer(*CONSUMER_FLAGS)
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        await_step(pipeline, trainer, 100)
        assert trainer.stop(signal.SIGTERM) == consumer.stop(signal.SIGTERM) == 0
        consumer = pipeline.consumer(*CONSUMER_FLAGS, f"--map_dict={other.map_dict}")
        refused = pipeline.trainer(*TRAINER_FLAGS)
        assert refused.wait(LONG) == 1
        error = re.search(
            r"ERROR .* dictionaries have fingerprint (\w{16}), .* trained with (\w{16})",
            refused.log(),
        )
        assert error is not None and error[1] != error[2], refused.log()
        consumer.stop(signal.SIGTERM)
        pipeline.consumer(*CONSUMER_FLAGS)
        finish(pipeline, pipeline.trainer(*TRAINER_FLAGS))
        outcome = judge("dictionary swapped", 1, pipeline, stage.reference)
    outcomes.append(outcome)
    assert_exact(outcome)
    assert outcome.redone == 0


def test_commit_ahead_of_the_checkpoint(stage: Stage, outcomes: list[Outcome]) -> None:
    with stage.pipeline("ahead") as pipeline:
        consumer = pipeline.consumer(*CONSUMER_FLAGS)
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        await_step(pipeline, trainer, 100)
        assert trainer.stop(signal.SIGTERM) == consumer.stop(signal.SIGTERM) == 0
        with RowSource(stage.kafka.bootstrap_servers, stage.topic, pipeline.name) as source:
            source.commit(Commit(Position({0: ROWS // 2, 1: ROWS // 2}, 1), session=5))
        pipeline.consumer(*CONSUMER_FLAGS)
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        finish(pipeline, trainer)
        assert "rows ahead of the checkpoint" in trainer.log()
        outcome = judge("commit ahead", 1, pipeline, stage.reference)
    outcomes.append(outcome)
    assert_exact(outcome)
    assert outcome.redone == 0


def test_full_disk(stage: Stage, outcomes: list[Outcome]) -> None:
    with stage.pipeline("full") as pipeline, small_disk(pipeline.folder / "ckpt") as disk:
        pipeline.consumer(*CONSUMER_FLAGS)
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        await_step(pipeline, trainer, 100)
        fill(disk / "filler")
        assert trainer.wait(LONG) == 1
        assert "No space left on device" in trainer.log().splitlines()[-1], trainer.log()
        assert "Traceback" not in trainer.log()
        saved = newest_step(pipeline.folder)
        assert saved >= 80
        (disk / "filler").unlink()
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        finish(pipeline, trainer)
        assert f"resuming at step {saved}," in trainer.log()
        outcome = judge("disk full", 1, pipeline, stage.reference)
    outcomes.append(outcome)
    assert_exact(outcome)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 16 MB; mounting it takes root."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    subprocess.run(command, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Fills the file system."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_rows_deleted_before_they_were_trained(stage: Stage) -> None:
    deleted = ROWS // 2 - 1000
    folder = stage.folder / "deleted_rows"
    folder.mkdir()
    with Pipeline(folder, stage.kafka.bootstrap_servers, stage.dictionaries, 2) as pipeline:
        assert_ends(pipeline.producer(sample_files(folder, ROWS, 2)))
        consumer = pipeline.consumer(*CONSUMER_FLAGS)
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        await_step(pipeline, trainer, 100)
        assert trainer.stop(signal.SIGTERM) == consumer.stop(signal.SIGTERM) == 0
        trained = count_rows(pipeline.audit())
        first = sum(part == 0 for part, _ in trained)
        admin = KafkaAdminClient(bootstrap_servers=stage.kafka.bootstrap_servers)
        admin.delete_records({TopicPartition(pipeline.topic, 0): deleted})
        admin.close()
        consumer = pipeline.consumer(*CONSUMER_FLAGS)
        assert consumer.wait(LONG) == 1
        assert f"partition 0 of {pipeline.topic}: {deleted - first} rows from offset {first}" in (
            consumer.log()
        )
        pipeline.consumer(*CONSUMER_FLAGS, "--allow_loss")
        assert_ends(pipeline.trainer(*TRAINER_FLAGS, "--idle_seconds=8"))
        counted = count_rows(pipeline.audit())
    there = {(0, offset) for offset in (*range(first), *range(deleted, ROWS // 2))}
    there |= {(1, offset) for offset in range(ROWS // 2)}
    missing = there - set(counted)
    assert len(missing) < BATCH_SIZE  # the last rows, too few for a batch
    # A range of the audit trail may cover deleted offsets.
    assert all(times == 1 for times in counted.values())


def test_storm_of_bad_rows_stops_the_consumer_and_every_row_is_kept(stage: Stage) -> None:
    folder = stage.folder / "storm"
    folder.mkdir()
    (file,) = sample_files(folder, 4000, 1)
    lines = file.read_bytes().splitlines()
    storm = [b"storm %d" % number for number in range(600)]
    lines[1000:1000] = storm
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    with Pipeline(folder, stage.kafka.bootstrap_servers, stage.dictionaries, 1) as pipeline:
        assert_ends(pipeline.producer([file]))
        consumer = pipeline.consumer(*CONSUMER_FLAGS)
        trainer = pipeline.trainer(*TRAINER_FLAGS)
        assert consumer.wait(LONG) == 1
        errors = [line for line in consumer.log().splitlines() if " ERROR " in line]
        assert len(errors) == 1 and "--max_bad_fraction" in errors[0], consumer.log()
        consumer = pipeline.consumer(*CONSUMER_FLAGS, "--max_bad_fraction=1")
        await_step(pipeline, trainer, 4000 // BATCH_SIZE)
        assert trainer.stop(signal.SIGTERM) == 0, trainer.log()
        dead_letters = read_dead_letters(stage.kafka.bootstrap_servers, pipeline.topic)
    assert [each.value for each in dead_letters] == storm
    trained = sum(rows.rows for rows in pipeline.audit())
    assert trained == 4000
