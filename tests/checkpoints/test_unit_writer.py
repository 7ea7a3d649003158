"""Units of a real network, written while it is trained further."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from src.checkpoints.copies import KeptCopies
from src.checkpoints.parts import load, read_vocabulary
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import CheckpointError, Unit, newest_unit
from src.checkpoints.unit_writer import Moment, UnitWriter
from src.process.output import OutputError
from src.stream.position import Position
from tests.checkpoints.test_store import assert_bitwise_equal, make_network, train, values


class Held:
    """A writer whose thread waits for ``gate`` before it writes.

    Attributes:
        step: Of the next unit.
        durable: (step, whether it was written beside training) of each unit.
    """

    def __init__(self, folder: Path, network: nn.Cell, copies: KeptCopies | None = None) -> None:
        self.store = CheckpointStore(folder, "w", 5)
        self.store.lock()
        self.gate = threading.Event()
        self.step = 1
        self.durable: list[tuple[int, bool]] = []
        self.folder = folder
        self.sync: Callable[[], None] = self.await_gate
        self.writer = UnitWriter(
            network, self.store, self.moment, self.on_durable, copies or KeptCopies()
        )

    def await_gate(self) -> None:
        assert self.gate.wait(10)
        assert self.newest_step() < self.step, "what comes before a unit came after it"

    def moment(self) -> Moment:
        step, sync = self.step, self.sync
        grown = b"grown at %d" % step
        return Moment(
            step, Position({0: step}), "t", 42, {}, sync, lambda: {"step": step}, lambda: grown
        )

    def on_durable(self, unit: Unit, is_beside: bool) -> None:
        assert self.newest_step() == unit.step
        self.durable.append((unit.step, is_beside))

    def newest_step(self) -> int:
        unit = newest_unit(self.folder, "w")
        return 0 if unit is None else unit.step


@pytest.fixture
def network() -> nn.Cell:
    made = make_network()
    train(made, 2)
    return made


def test_a_unit_holds_the_moment_of_its_copy_though_training_goes_on(
    tmp_path: Path, network: nn.Cell
) -> None:
    held = Held(tmp_path, network)
    held.writer.prepare()
    for step in (1, 2):  # the second copy takes the memory of the first
        expected = values(network)
        held.step = step
        held.gate.clear()
        assert held.writer.begin(held.store)
        train(network, 3)
        held.step = 99
        assert held.writer.is_writing
        held.gate.set()
        held.writer.wait()
        unit = newest_unit(tmp_path, "w")
        assert unit is not None
        assert (unit.step, unit.position, unit.extra) == (step, Position({0: step}), {"step": step})
        assert read_vocabulary(unit) == b"grown at %d" % step
        found = load(unit)
        del found["vocabulary"]
        assert_bitwise_equal(found, expected)
        assert any((found[name] != now).any() for name, now in values(network).items())
    assert held.durable == [(1, True), (2, True)]
    held.writer.close()


def test_the_next_unit_waits_for_the_one_before_it(tmp_path: Path, network: nn.Cell) -> None:
    held = Held(tmp_path, network)
    assert held.writer.begin(held.store)
    threading.Timer(0.2, held.gate.set).start()
    held.step = 2
    held.writer.write(held.store)
    assert held.durable == [(1, True), (2, False)]
    held.writer.close()


def test_closing_waits_for_the_unit_under_way(tmp_path: Path, network: nn.Cell) -> None:
    held = Held(tmp_path, network)
    assert held.writer.begin(held.store)
    threading.Timer(0.2, held.gate.set).start()
    held.writer.close()
    assert held.newest_step() == 1


def test_without_memory_for_copies_nothing_is_written_beside_training(
    tmp_path: Path, network: nn.Cell
) -> None:
    held = Held(tmp_path, network, KeptCopies(lambda: 0))
    held.gate.set()
    assert not held.writer.begin(held.store)
    assert held.newest_step() == 0
    held.writer.write(held.store)
    assert held.durable == [(1, False)]
    held.writer.close()


@pytest.mark.parametrize("failing", ["folder", "trail"])
def test_a_failed_unit_is_the_last_and_raised_at_each_call(
    tmp_path: Path, network: nn.Cell, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    held = Held(tmp_path / "ckpt", network)
    trail_error = OutputError("can't write audit: No space left on device")

    def fail() -> None:
        assert held.gate.wait(10)
        if failing == "trail":
            raise trail_error
        held.store._directory = tmp_path / "missing"

    held.sync = fail
    assert held.writer.begin(held.store)
    held.writer.check()  # it has not failed yet
    held.gate.set()
    held.writer.finish()
    kind = OutputError if failing == "trail" else CheckpointError
    for call in (
        held.writer.check,
        held.writer.wait,
        lambda: held.writer.begin(held.store),
        lambda: held.writer.write(held.store),
    ):
        with pytest.raises(kind, match=r"^can't write .*(No space left|No such file)"):
            call()
    held.writer.close()
    assert (held.newest_step(), held.durable, caplog.records) == (0, [], [])


def test_a_failure_nobody_was_told_of_is_logged_at_the_end(
    tmp_path: Path, network: nn.Cell, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    held = Held(tmp_path, network)

    def fail() -> None:
        raise OutputError("can't write audit: No space left on device")

    held.sync = fail
    assert held.writer.begin(held.store)
    held.writer.close()
    (record,) = caplog.records
    assert (record.levelname, record.message) == (
        "ERROR",
        "can't write audit: No space left on device",
    )


def test_copies_of_a_network_that_has_never_run(tmp_path: Path) -> None:
    weight = ms.Parameter(ms.Tensor(np.arange(3, dtype=np.float32)), name="weight")
    cell = nn.ParameterUpdate(weight)
    held = Held(tmp_path, cell)
    held.gate.set()
    assert held.writer.begin(held.store)
    held.writer.wait()
    unit = newest_unit(tmp_path, "w")
    assert unit is not None
    np.testing.assert_array_equal(load(unit)["weight"], [0, 1, 2])
    held.writer.close()
