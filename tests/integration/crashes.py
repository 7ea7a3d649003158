"""What the crash tests share: a stream of known length, moments to kill at, and the checks."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import pytest

from examples.demo.script import Script
from examples.services.common import wait_until
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from src.process.arrays import Array
from src.stream.row_source import RowSource
from tests.integration.pipeline import (
    BATCH_SIZE,
    LONG,
    AuditedRows,
    DictionaryFiles,
    Pipeline,
    assert_ends,
    sample_files,
)

STEPS = 400
ROWS = STEPS * BATCH_SIZE
SAVE_EVERY = 20
CONSUMER_FLAGS = ("--window_size=300", "--max_window_size=300")
TRAINER_FLAGS = (f"--save_checkpoint_steps={SAVE_EVERY}", "--keep_checkpoint_max=3")
STEP = re.compile(r"step: (\d+)")
Weights = dict[str, Array]
OUTCOMES: pytest.StashKey[list[Outcome]] = pytest.StashKey()


@dataclass(frozen=True)
class Outcome:
    """The result of a scenario.

    Attributes:
        scenario: Its name.
        kills: How many times something was killed or stopped.
        lost: Rows of the topic that the audit trail lacks.
        doubled: Rows that it holds more than once.
        redone: Steps that were trained again because a killed trainer lost them.
        equal: Whether weights and optimizer state are those of the undisturbed run; None where
            other batches were trained.
        notes: Remarks for the table.
    """

    scenario: str
    kills: int
    lost: int
    doubled: int
    redone: int
    equal: bool | None
    notes: str = ""

    def __str__(self) -> str:
        equal = {True: "yes", False: "NO", None: "-"}[self.equal]
        return (
            f"{self.scenario:<22} {self.kills:>5} {self.lost:>9} {self.doubled:>12} "
            f"{self.redone:>12} {equal:>13}  {self.notes}"
        )


HEADER = (
    f"{'scenario':<22} {'kills':>5} {'rows lost':>9} {'rows doubled':>12} "
    f"{'steps redone':>12} {'weights equal':>13}"
)


class Stage:
    """The filled topic, and pipelines on it.

    Attributes:
        topic: Holds the rows, in two partitions.
        reference: The weights of an undisturbed run; set by the fixture.
    """

    def __init__(
        self,
        folder: Path,
        kafka: KafkaService,
        engine: EngineService,
        made: DictionaryFiles,
        rows: int = ROWS,
    ) -> None:
        self.folder = folder
        self.kafka = kafka
        self.engine = engine
        self.dictionaries = made
        self.reference: Weights = {}
        with Pipeline(folder, kafka.bootstrap_servers, made, 2) as pipeline:
            self.topic = pipeline.topic
            assert_ends(pipeline.producer(sample_files(folder, rows, 2)))

    @contextmanager
    def pipeline(self, name: str, topic: str = "") -> Iterator[Pipeline]:
        """Scripts of a group and a folder of their own, on the filled topic or another one."""
        folder = self.folder / name
        folder.mkdir()
        servers = self.kafka.bootstrap_servers
        with Pipeline(folder, servers, self.dictionaries, 2, topic or self.topic) as pipeline:
            yield pipeline


def step_reached(pipeline: Pipeline) -> int:
    """The step of the trainer's last loss line, 0 before the first."""
    lines = pipeline.loss_lines[-1:]
    found = STEP.search(lines[0]) if lines else None
    return int(found[1]) if found else 0


def await_step(pipeline: Pipeline, trainer: Script, step: int, timeout: float = LONG) -> None:
    """Waits until the trainer has reached a step; fails if it ends before that."""
    assert wait_until(
        lambda: step_reached(pipeline) >= step or trainer.code is not None, timeout, 0.002
    ), f"step {step_reached(pipeline)} after {timeout:.0f} s, waited for {step}\n{trainer.log()}"
    assert step_reached(pipeline) >= step, trainer.log()


def moments(seed: int, kills: int) -> list[int]:
    """The steps to kill at: random ones in ascending order, none near either end."""
    return sorted(random.Random(seed).sample(range(10, STEPS - 30), kills))


def await_a_checkpoint_under_way(folder: Path) -> None:
    """Returns while a checkpoint is being written, or after five seconds."""
    _spin(lambda: any((folder / "ckpt").glob(".*.writing.ckpt")))


def await_a_new_checkpoint(folder: Path) -> None:
    """Returns as soon as a new checkpoint is complete, or after five seconds."""
    before = set((folder / "ckpt").glob("*.json"))
    _spin(lambda: bool(set((folder / "ckpt").glob("*.json")) - before))


def _spin(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 5
    while time.monotonic() < give_up_at:
        with contextlib.suppress(FileNotFoundError):  # a file that goes while it is listed
            if condition():
                return


def cut_in_writing(folder: Path) -> bool:
    """Whether the killed trainer died while it wrote a checkpoint."""
    names = {path.stem for path in (folder / "ckpt").glob("*.json")}
    torn = any((folder / "ckpt").glob(".*.writing.ckpt"))
    return torn or any(path.stem not in names for path in (folder / "ckpt").glob("w*.ckpt"))


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint."""
    steps = [int(path.stem.rpartition("_")[2]) for path in (folder / "ckpt").glob("*.json")]
    return max(steps, default=0)


def committed_rows(pipeline: Pipeline, bootstrap_servers: str) -> int:
    """How many rows the group has committed as trained."""
    with RowSource(bootstrap_servers, pipeline.topic, pipeline.name) as source:
        commit = source.committed()
    return sum(commit.position.offsets.values()) if commit else 0


def final_weights(folder: Path, step: int = STEPS) -> Weights:
    """Every parameter of the checkpoint of the last step, as stored."""
    loaded = ms.load_checkpoint(str(folder / "ckpt" / f"widedeep_train-1_{step}.ckpt"))
    return {name: parameter.asnumpy() for name, parameter in loaded.items()}


def equal_bit_for_bit(one: Weights, other: Weights) -> bool:
    """Whether two sets of parameters have the same names, types, shapes and bytes."""
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape, one[name].tobytes())
        == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name in one
    )


def judge(
    scenario: str,
    kills: int,
    pipeline: Pipeline,
    reference: Weights,
    notes: str = "",
) -> Outcome:
    """Counts the rows in the audit trail and compares the weights."""
    equal = equal_bit_for_bit(final_weights(pipeline.folder), reference)
    return Outcome(scenario, kills, *_rows_and_steps(pipeline, ROWS), equal, notes)


def judge_rows(scenario: str, kills: int, pipeline: Pipeline, rows: int) -> Outcome:
    """The same where the batches were closed by time, so that there is nothing to compare."""
    parts = sum(1 for step in _rows_of_steps(pipeline) if step < BATCH_SIZE)
    counted = _rows_and_steps(pipeline, rows)
    return Outcome(scenario, kills, *counted, None, f"{parts} batches were not full")


def _rows_and_steps(pipeline: Pipeline, rows: int) -> tuple[int, int, int]:
    """Rows lost, rows doubled and steps redone, of a topic with two partitions."""
    counted = count_rows(pipeline.audit())
    wanted = Counter({(part, offset) for part in (0, 1) for offset in range(rows // 2)})
    steps = [int(found[1]) for line in pipeline.loss_lines if (found := STEP.search(line))]
    return (
        sum((wanted - counted).values()),
        sum((counted - wanted).values()),
        len(steps) - len(set(steps)),
    )


def _rows_of_steps(pipeline: Pipeline) -> list[int]:
    """How many rows each step has trained."""
    by_step: Counter[int] = Counter()
    for rows in pipeline.audit():
        by_step[rows.step] += rows.rows
    return list(by_step.values())


def count_rows(audit: list[AuditedRows]) -> Counter[tuple[int, int]]:
    """How often each (partition, offset) was trained."""
    counted: Counter[tuple[int, int]] = Counter()
    for rows in audit:
        counted.update(
            (rows.partition, offset) for offset in range(rows.first_offset, rows.last_offset + 1)
        )
    return counted


def assert_exact(outcome: Outcome | None) -> None:
    """Fails unless no row was lost or doubled and the weights are equal."""
    assert outcome is not None
    assert (outcome.lost, outcome.doubled, outcome.equal) == (0, 0, True), f"\n{HEADER}\n{outcome}"
