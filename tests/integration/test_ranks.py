"""Several ranks are one trainer: one result, one stop, and the failure of one is that of all.

Real scripts, broker and engine, ranks on the CPU over MindSpore's own network. ``make test-ranks``
runs them all and prints a table.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest

from examples.demo.losses import RANK_PREFIX
from examples.demo.plan import LAUNCHERS
from examples.demo.script import Script
from examples.services.common import ROOT, wait_until
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from tests.integration.crashes import (
    Stage,
    Weights,
    await_step,
    count_rows,
    final_weights,
    newest_step,
    step_reached,
)
from tests.integration.pipeline import (
    LONG,
    LOSS_LINE,
    DictionaryFiles,
    Pipeline,
    assert_ends,
    sample_files,
)
from tests.integration.ranks import (
    GLOBAL_BATCH,
    NOTICE_SECONDS,
    RANK_OUTCOMES,
    ROWS,
    START_SECONDS,
    STEPS,
    RankOutcome,
    assert_nothing_left,
    consumer_flags,
    finish,
    judged,
    largest_difference,
    rows_of,
    scheduler,
    seconds_to_end,
    start_ranks,
    trainer_flags,
    worker,
)

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

# Sums of two halves of a batch against one sum: float32 rounding, which Adam's first steps blow
# up to the order of its learning rate only where a gradient is all rounding.
ROUNDING = 2e-4
CHECKSUM = re.compile(r"the \d+ ranks hold equal weights, checksum (\w{8})")


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> list[RankOutcome]:
    """Collects the results of the launches; their table is printed at the end of the run."""
    return request.config.stash.setdefault(RANK_OUTCOMES, [])


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, kafka_service: KafkaService, engine: EngineService
) -> Stage:
    folder = tmp_path_factory.mktemp("ranks")
    return Stage(folder, kafka_service, engine, DictionaryFiles.make(folder), ROWS)


@pytest.fixture(scope="module")
def alone(stage: Stage) -> Weights:
    """What one rank makes of the stream."""
    pipeline = undisturbed(stage, "", 1)
    assert rows_of(pipeline) == (0, 0)
    return final_weights(pipeline.folder, STEPS)


@pytest.fixture(scope="module")
def two_ranks(stage: Stage) -> Pipeline:
    """Two ranks of a dynamic network to which nothing has happened, after their last step."""
    return undisturbed(stage, "network", 2)


@pytest.fixture(scope="module")
def two(two_ranks: Pipeline) -> Weights:
    """What those make of the stream."""
    return final_weights(two_ranks.folder, STEPS)


def undisturbed(stage: Stage, launcher: str, ranks: int) -> Pipeline:
    with stage.pipeline(f"plain_{launcher}_{ranks}") as pipeline:
        pipeline.consumer(*consumer_flags(ranks))
        launch = start_ranks(pipeline, launcher, ranks, f"--max_steps={STEPS}")
        assert launch.wait(START_SECONDS) == 0, launch.log()
        assert_nothing_left(pipeline)
        return pipeline


def test_two_ranks_train_what_one_trains_and_end_together_after_the_last_step(
    two_ranks: Pipeline, outcomes: list[RankOutcome], alone: Weights
) -> None:
    outcomes.append(plain_outcome(two_ranks, alone, "network", 2))


@pytest.mark.parametrize(("launcher", "ranks"), [("mpirun", 2), ("network", 4), ("mpirun", 4)])
def test_ranks_train_what_one_trains_and_end_together_after_the_last_step(
    stage: Stage, outcomes: list[RankOutcome], alone: Weights, launcher: str, ranks: int
) -> None:
    outcomes.append(plain_outcome(undisturbed(stage, launcher, ranks), alone, launcher, ranks))


def plain_outcome(pipeline: Pipeline, alone: Weights, launcher: str, ranks: int) -> RankOutcome:
    """Fails unless the ranks were one trainer, the same as one that is alone."""
    assert_one_spoke_for_all(pipeline)
    # Before the first step, at each checkpoint and at the last: all ranks log the same.
    sums = [CHECKSUM.findall(log) for log in rank_logs(pipeline, ranks)]
    assert len(sums[0]) > STEPS // 20 and all(other == sums[0] for other in sums)
    outcome = judged(pipeline, alone, launcher, str(ranks), "none (--max_steps)", 0)
    assert (outcome.lost, outcome.doubled) == (0, 0)
    assert largest_difference(final_weights(pipeline.folder, STEPS), alone) < ROUNDING
    return outcome


def assert_one_spoke_for_all(pipeline: Pipeline) -> None:
    """Fails unless each step has one loss line, from one and the same rank."""
    lines = [RANK_PREFIX.sub("", line) for line in pipeline.loss_lines]
    steps = [int(found[1]) for line in lines if (found := LOSS_LINE.fullmatch(line))]
    assert steps == list(range(1, STEPS + 1))
    prefixes = {found[0] for line in pipeline.loss_lines if (found := RANK_PREFIX.match(line))}
    assert len(prefixes) == 1
    assert (pipeline.folder / "loss.log").read_text().splitlines() == lines


def rank_logs(pipeline: Pipeline, ranks: int) -> list[str]:
    folder = pipeline.folder / "logs"
    return [(folder / f"worker_{index}.log").read_text() for index in range(ranks)]


def test_two_ranks_train_together_what_does_not_fill_their_batches(stage: Stage) -> None:
    rows = 2 * GLOBAL_BATCH + 30
    folder = stage.folder / "by_time"
    folder.mkdir()
    with Pipeline(folder, stage.kafka.bootstrap_servers, stage.dictionaries, 2) as pipeline:
        assert_ends(pipeline.producer(sample_files(folder, rows, 2)))
        pipeline.consumer("--num_shards=2", "--window_seconds=0.2")
        launch = start_ranks(pipeline, "network", 2, "--batch_seconds=1", "--idle_seconds=10")
        assert launch.wait(START_SECONDS) == 0, launch.log()
        assert_nothing_left(pipeline)
    wanted = {(partition, offset): 1 for partition in (0, 1) for offset in range(rows // 2)}
    assert count_rows(pipeline.audit()) == wanted
    assert newest_step(folder) > rows // GLOBAL_BATCH
    sums = [CHECKSUM.findall(log) for log in rank_logs(pipeline, 2)]
    assert len(sums[0]) > 1 and sums[0] == sums[1]


HANGS = "rank hangs (SIGSTOP)"
DISTURBANCES: dict[str, Callable[[Script], None]] = {
    "SIGTERM to rank": lambda launch: worker(launch, 1).terminate(),
    "SIGTERM to launcher": lambda launch: launch.process.send_signal(signal.SIGTERM),
    "SIGINT to launcher": lambda launch: launch.process.send_signal(signal.SIGINT),
    "rank killed -9": lambda launch: worker(launch, 1).kill(),
    "scheduler killed -9": lambda launch: scheduler(launch).kill(),
    "launcher killed -9": lambda launch: launch.process.kill(),
    # The last one: mpirun wakes whom it ends, and the rank trains on until it hears of the stop.
    HANGS: lambda launch: worker(launch, 1).suspend(),
}
FAULTS = tuple(name for name in DISTURBANCES if not name.startswith("SIG"))
BLAMED = {
    "rank killed -9": r"worker 1 \(rank \d\) has failed: killed by SIGKILL; the end of .*worker_1",
    HANGS: r"worker 1 \(rank \d\) has sent no heartbeat for [12]?\d s; the end",
    "scheduler killed -9": r"the scheduler has ended \(killed by SIGKILL\)",
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("launcher", "stops"),
    [
        ("network", ("SIGTERM to rank", "SIGINT to launcher")),
        ("mpirun", ("SIGTERM to rank", "SIGTERM to launcher")),
    ],
)
def test_a_stop_a_failure_or_the_streams_end_ends_all_and_the_next_launch_goes_on_exactly(
    stage: Stage,
    outcomes: list[RankOutcome],
    two: Weights,
    launcher: str,
    stops: tuple[str, ...],
) -> None:
    with stage.pipeline(f"faults_{launcher}") as pipeline:
        pipeline.consumer(*consumer_flags(2))
        ends = {
            name: after_fault(pipeline, launcher, name, step=10 + 17 * number)
            for number, name in enumerate((*stops, *FAULTS))
        }
        launch = start_ranks(pipeline, launcher, 2, "--idle_seconds=3")
        assert launch.wait(START_SECONDS) == 0, launch.log()
        assert_nothing_left(pipeline)
        whole = judged(pipeline, two, launcher, "2", "stream ends (idle)", 0)
    for name, (code, seconds) in ends.items():
        outcomes.append(replace(whole, fault=name, end=str(code), seconds=seconds))
    outcomes.append(whole)
    assert_exact(whole)
    for name, (_, seconds) in ends.items():
        # That a rank hangs is noticed in time, see BLAMED; then it has to be killed.
        assert seconds < NOTICE_SECONDS + (10.0 if name == HANGS else 0.0), name


def after_fault(pipeline: Pipeline, launcher: str, name: str, step: int) -> tuple[int, float]:
    """Disturbs a launch at a step; returns its exit code and the seconds until it ended."""
    pipeline.loss_lines.clear()
    launch = start_ranks(pipeline, launcher, 2)
    await_step(pipeline, launch, step, START_SECONDS)
    DISTURBANCES[name](launch)
    seconds = seconds_to_end(launch)
    code = int(launch.process.returncode)
    expected = 0 if name not in FAULTS else -signal.SIGKILL if "launcher" in name else 1
    assert code == expected, launch.log()
    assert re.search(BLAMED.get(name, ""), launch.log()), launch.log()
    assert_nothing_left(pipeline)
    assert step_reached(pipeline) < STEPS or name == HANGS
    if code == 0:  # after a stop the checkpoint is that of the last step
        assert newest_step(pipeline.folder) == step_reached(pipeline)
    return code, seconds


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_restart_with_another_number_of_ranks_resumes_exactly(
    stage: Stage, outcomes: list[RankOutcome], alone: Weights, before: int, after: int
) -> None:
    with stage.pipeline(f"from_{before}_to_{after}") as pipeline:
        consumer = pipeline.consumer(*consumer_flags(before))
        launch = start_ranks(pipeline, "network", before)
        await_step(pipeline, launch, 53, START_SECONDS)
        launch.stop(signal.SIGKILL)
        assert_nothing_left(pipeline)
        assert consumer.stop(signal.SIGTERM) == 0
        pipeline.consumer(*consumer_flags(after))
        finish(pipeline, start_ranks(pipeline, "network", after))
        title = f"{before}, {after}"
        outcome = judged(pipeline, alone, "network", title, "launcher killed -9", -9)
        difference = largest_difference(final_weights(pipeline.folder, STEPS), alone)
    outcomes.append(outcome)
    assert (outcome.lost, outcome.doubled) == (0, 0)
    assert difference < ROUNDING


def test_another_number_of_shards_is_refused_by_name_on_both_sides(stage: Stage) -> None:
    with stage.pipeline("mismatch") as pipeline:
        consumer = pipeline.consumer(*consumer_flags(4))
        launch = start_ranks(pipeline, "network", 2)
        assert launch.wait(START_SECONDS) == 1
        reason = "was started with --num_shards=4"
        assert f"{reason}, this trainer has 2 ranks" in launch.log(), launch.log()
        assert consumer.wait(LONG) == 1
        assert "has 2 rank(s), this consumer was started with --num_shards=4" in consumer.log()


def test_a_growing_vocabulary_is_refused_by_name(stage: Stage) -> None:
    with stage.pipeline("growing") as pipeline:
        launch = start_ranks(pipeline, "network", 2, "--admit_count=2", "--vocab_size=3000")
        assert launch.wait(START_SECONDS) == 1
        assert "admit_count: only a trainer that is alone" in launch.log(), launch.log()


def test_a_detached_launch_goes_on_in_the_background_until_its_pid_gets_sigterm(
    stage: Stage,
) -> None:
    with stage.pipeline("detached") as pipeline:
        pipeline.consumer(*consumer_flags(2))
        arguments = pipeline.launch_arguments("network", 2, *trainer_flags(2))
        script = ROOT / LAUNCHERS["network"]
        command = ["bash", str(script), *arguments[:4], "--detach", *arguments[4:]]
        subprocess.run(command, check=True, cwd=pipeline.folder)
        logs = pipeline.folder / "logs"
        process = psutil.Process(int((logs / "launcher.pid").read_text()))
        log = logs / "launcher.log"
        assert wait_until(lambda: "step: 20," in log.read_text(), START_SECONDS), log.read_text()
        process.terminate()
        assert wait_until(lambda: not process.is_running(), LONG)
        assert "all ranks have ended well" in log.read_text()
        assert_nothing_left(pipeline)


def assert_exact(outcome: RankOutcome) -> None:
    """Fails unless no row was lost or doubled and the weights are equal."""
    assert (outcome.lost, outcome.doubled, outcome.equal) == (0, 0, "equal bit for bit"), outcome
