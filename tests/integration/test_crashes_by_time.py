"""Parts are killed while batches are closed by time: after a restart every row is trained once.

The clock decides where such batches end, so there are no weights to compare. ``make test-crashes``
runs it with the other scenarios.
"""

from __future__ import annotations

import json
import random
import re
import signal
import time
from pathlib import Path

import pytest

from examples.services.common import wait_until
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from tests.integration.crashes import OUTCOMES, TRAINER_FLAGS, count_rows, judge_rows, newest_step
from tests.integration.pipeline import (
    BATCH_SIZE,
    LONG,
    DictionaryFiles,
    Pipeline,
    assert_ends,
    growing_flags,
    sample_files,
    wait_for,
)

pytestmark = [pytest.mark.crashes, pytest.mark.timeout(900)]

KILLS = 5
BURST = 310
ROWS = (KILLS + 1) * BURST
RATE = 50.0  # rows per second of each partition, so that most batches are not full
LEARNS = re.compile("starting afresh|resuming")


def test_trainer_and_consumer_while_batches_are_closed_by_time(
    tmp_path: Path,
    kafka_service: KafkaService,
    engine: EngineService,
    request: pytest.FixtureRequest,
) -> None:
    made = DictionaryFiles.make(tmp_path)
    growing = growing_flags(made)
    consumer_flags = ["--window_seconds=0.1", *growing]
    often = "--save_checkpoint_steps=5"
    trainer_flags = [*TRAINER_FLAGS, *growing, "--batch_seconds=0.1", often]
    with Pipeline(tmp_path, kafka_service.bootstrap_servers, made, 2) as pipeline:
        consumer = pipeline.consumer(*consumer_flags)
        for seed in range(KILLS):
            draw = random.Random(seed)
            trainer = pipeline.trainer(*trainer_flags)
            wait_for(trainer, LEARNS)
            producer = pipeline.producer(sample_files(tmp_path, BURST, 2), f"--rate={RATE}")
            await_more_steps(pipeline, draw.randrange(3, 7))
            time.sleep(draw.uniform(0, 0.2))
            if seed % 2:
                consumer.stop(signal.SIGKILL)
                consumer = pipeline.consumer(*consumer_flags)
            trainer.stop(signal.SIGKILL)
            assert_ends(producer)
        trainer = pipeline.trainer(*trainer_flags)
        assert_ends(pipeline.producer(sample_files(tmp_path, BURST, 2), f"--rate={RATE}"))
        assert wait_until(lambda: len(count_rows(pipeline.audit())) == ROWS, LONG), trainer.log()
        assert trainer.stop(signal.SIGTERM, timeout=LONG) == 0, trainer.log()
        outcome = judge_rows("closed by time", KILLS, pipeline, ROWS)
    request.config.stash.setdefault(OUTCOMES, []).append(outcome)
    assert (outcome.lost, outcome.doubled) == (0, 0)
    report = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(report)["life"]["rows"] == ROWS
    assert newest_step(tmp_path) > ROWS // BATCH_SIZE


def await_more_steps(pipeline: Pipeline, steps: int) -> None:
    """Waits until so many steps more have been trained."""
    until = len(pipeline.loss_lines) + steps
    assert wait_until(lambda: len(pipeline.loss_lines) >= until, LONG, 0.01), pipeline.last_log()
