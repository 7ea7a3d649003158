"""Runs the commands in the ``bash`` blocks of README.md and docs/ as they are written there.

``terminals`` says what is changed. ``tests/docs`` checks that no command is left out.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.sample.rows import write_sample
from examples.services.common import wait_until
from examples.services.engine_service import EngineService, engine_is_running
from examples.services.kafka_service import KafkaService, broker_answers
from tests.docs.commands import (
    ADAPTIVE,
    DEAD_LETTERS,
    DEMO,
    EVALUATE,
    EXPORT,
    MANY_CARDS,
    OWN_FILE,
    REPORT,
    STEPS,
    only,
)
from tests.integration.documents.terminals import Terminals
from tests.integration.pipeline import LONG, LOSS_LINE
from tests.integration.shared_engine import SharedEngine

SUMMARY = -4  # the demo's line that sums it up; three on where to look next come after it


@contextlib.contextmanager
def engine_of(terminals: Terminals, shared_engine: SharedEngine) -> Iterator[None]:
    """The engine that the README's own commands start and stop, unless one may be in use."""
    start, stop = only("yrctl start"), only("yrctl stop")
    with shared_engine.replaced() as is_ours:
        if not is_ours:
            terminals.done += [start, stop]
            yield
            return
        terminals.run(start)
        assert wait_until(engine_is_running, 20)
        yield
        terminals.run(stop)
        assert wait_until(lambda: not engine_is_running(), 20)


@pytest.mark.slow
def test_steps_work_as_written(terminals: Terminals, shared_engine: SharedEngine) -> None:
    for step in STEPS[:3]:
        terminals.make(only(step)) if step.startswith("make") else terminals.run(only(step))
    terminals.start(only("bin/zookeeper-server-start.sh"))
    broker = terminals.start(only("bin/kafka-server-start.sh"))
    address = f"127.0.0.1:{terminals.port}"
    assert wait_until(lambda: broker_answers(address), LONG, 0.5), terminals.output(broker)
    terminals.run(only("python kafka_client.py"))
    with engine_of(terminals, shared_engine):
        terminals.run(only("python producer.py"))
        consuming = terminals.start(only("python consumer.py"))
        training = terminals.start(only("python online_train.py"))
        assert wait_until(
            lambda: (
                len(terminals.stdout(training).splitlines()) >= 20 or training.poll() is not None
            ),
            LONG,
        ), terminals.output(training) + terminals.output(consuming)
        terminals.press_ctrl_c(training, within=20)
        terminals.press_ctrl_c(consuming, within=5)
    lines = terminals.stdout(training).splitlines()
    steps = [LOSS_LINE.fullmatch(line) for line in lines]
    assert [match and int(match[1]) for match in steps] == list(range(1, len(lines) + 1))
    (checkpoint,) = (terminals.folder / "ckpt").glob("*.ckpt")
    assert checkpoint.name == f"widedeep_train-1_{len(lines)}.ckpt"
    assert sorted(terminals.done) == sorted(map(only, STEPS))
    dead_letters_work_as_written(terminals)
    assert "log loss" in terminals.run(only(EVALUATE))


def dead_letters_work_as_written(terminals: Terminals) -> None:
    """There are none: the sample's rows are good."""
    count, listing, replay = map(only, DEAD_LETTERS)
    assert terminals.run(count).split() == ["rows", "column", "reason", "0", "all"]
    assert terminals.run(listing) == ""
    assert (terminals.folder / "bad.jsonl").read_text() == ""
    replaying = terminals.start(replay)
    assert replaying.wait(LONG) == 0, terminals.output(replaying)
    assert "replayed 0 rows, 0 were replayed before, 0 refused" in terminals.output(replaying)


@pytest.mark.slow
def test_make_demo_and_the_users_own_file_work_as_written(
    terminals: Terminals, engine: EngineService
) -> None:
    began = time.monotonic()
    stdout = terminals.make(DEMO).splitlines()
    assert time.monotonic() - began < 180
    assert len([line for line in stdout if LOSS_LINE.fullmatch(line)]) >= 50
    assert stdout[SUMMARY].startswith("produced 10000 rows")
    assert list((terminals.folder / "ckpt").glob("widedeep_train-*.ckpt"))
    terminals.run(only(REPORT))
    assert "<html" in (terminals.folder / "report.html").read_text()
    write_sample([terminals.folder / "day_0.tsv"], 900)
    for command in (OWN_FILE, ADAPTIVE):
        stdout = terminals.run(command).splitlines()
        assert stdout[SUMMARY].startswith("produced 600 rows")
    assert "progressive AUC" in stdout[SUMMARY]
    terminals.run(only(EXPORT))
    fixed, grown = (
        pickle.loads(path.read_bytes())
        for path in (
            terminals.folder / "demo" / "cat2id_dict.pkl",
            terminals.folder / "grown_cat2id_dict.pkl",
        )
    )
    assert fixed.items() < grown.items()


@pytest.mark.ranks
@pytest.mark.timeout(900)
def test_many_cards_work_as_written(terminals: Terminals, engine: EngineService) -> None:
    demo, by_network, by_mpi = only("make demo-ranks"), *map(only, MANY_CARDS[:2])
    stdout = terminals.make(demo).splitlines()
    assert stdout[SUMMARY].startswith("produced 10000 rows")
    assert "trained 10000 rows in 50 steps on 2 ranks by mpirun" in stdout[SUMMARY]
    with KafkaService(terminals.folder / "broker", terminals.port):
        for step in ("python examples/make_sample.py", "python examples/process_data.py"):
            terminals.run(only(step))
        terminals.run(only("python kafka_client.py"))
        terminals.run(only("python producer.py"))
        consumer_command = only("python consumer.py").replace("_shards=1", "_shards=2")
        consuming = terminals.start(consumer_command)
        for steps, command in ((10, by_network), (20, by_mpi)):
            flags = f"-- --fresh --bootstrap_servers=127.0.0.1:{terminals.port}"
            training = terminals.start(f"{command} {flags} --max_steps={steps}")
            assert training.wait(LONG) == 0, terminals.output(training)
            assert f", step: {steps}, wide_loss" in terminals.stdout(training)
        terminals.press_ctrl_c(consuming, within=5)


def test_make_test_collects_all_tests(terminals: Terminals) -> None:
    def collect_only(command: str) -> str:
        return f"{command} --collect-only -q" if "-m pytest" in command else command

    stdout = terminals.make(only("make test"), collect_only)
    assert f"{Path(__file__).name}::{test_make_test_collects_all_tests.__name__}" in stdout
    assert "tests collected" in stdout.splitlines()[-1]


def test_services_come_up_and_go_down_as_written(
    terminals: Terminals, engine: EngineService
) -> None:
    try:
        terminals.make(only("make services-up"))
        assert broker_answers(f"127.0.0.1:{terminals.port}")
    finally:
        terminals.make(only("make services-down"))
    assert not broker_answers(f"127.0.0.1:{terminals.port}")
    assert engine_is_running()
