"""Parts are killed while batches are closed by time: after a restart every row is trained once.

The clock decides where such batches end, so there are no weights to compare. ``make test-crashes``
runs it with the other scenarios.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from examples.services.common import wait_until
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from tests.integration.crashes import OUTCOMES, TRAINER_FLAGS, judge_rows, newest_step
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

KILLS = 5
ROWS = 2_000
ROWS_PER_SECOND = 10.0
"""Of each partition; so slow that most batches are not full."""


def test_trainer_and_consumer_while_batches_are_closed_by_time(
    tmp_path: Path,
    kafka_service: KafkaService,
    engine: EngineService,
    request: pytest.FixtureRequest,
) -> None:
    made = DictionaryFiles.make(tmp_path)
    growing = growing_flags(made)
    consumer_flags = ["--window_seconds=0.1", *growing]
    trainer_flags = [*TRAINER_FLAGS, *growing, "--batch_seconds=0.1"]
    with Pipeline(tmp_path, kafka_service.bootstrap_servers, made, 2) as pipeline:
        producer = pipeline.producer(sample_files(tmp_path, ROWS, 2), f"--rate={ROWS_PER_SECOND}")
        consumer = pipeline.consumer(*consumer_flags)
        for seed in range(KILLS):
            draw = random.Random(seed)
            trainer = pipeline.trainer(*trainer_flags)
            await_more_steps(pipeline, draw.randrange(5, 30))
            time.sleep(draw.uniform(0, 0.2))
            if seed % 2:
                consumer.stop(signal.SIGKILL)
                consumer = pipeline.consumer(*consumer_flags)
            trainer.stop(signal.SIGKILL)
        trainer = pipeline.trainer(*trainer_flags, "--idle_seconds=15")
        for script in (producer, trainer):
            assert_ends(script)
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
