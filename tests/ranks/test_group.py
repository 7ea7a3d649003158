"""Several processes on the CPU that train and talk together, over the real exchange.

They are started as the launchers start them, only with ``rank_program.py`` in place of
``online_train.py``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.process.arrays import Array
from src.process.ports import free_port
from src.process.stop import StopFlag
from src.ranks.group import Ranks
from src.ranks.launch import launch_of, parse_args
from src.ranks.meeting import run_as_batch_process
from src.ranks.supervisor import Supervisor
from tests.ranks.rank_messages import MESSAGE, ODD, Weights
from tests.ranks.rank_step import KINDS

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
GLOBAL_BATCH = 24
# Of the largest value of each parameter: 17 units in the last place of a float32. N sums of b rows'
# gradients are added in another order than one sum of N · b rows, which costs a unit or two a step,
# up or down; after 20 steps 4.6e-7 is the most that was seen, in a first moment of Adam's.
TOLERANCE = 2e-6

pytestmark = pytest.mark.timeout(400)  # six tries to meet, of 25 s and some


def launch(folder: Path, launcher: str, size: int, steps: int = STEPS) -> Path:
    """Runs the ranks of a launch, which leave in the folder what they have trained and heard."""
    if launcher == "mpirun" and size > 1:
        told = ["mpirun", str(size), "127.0.0.1"]
    else:
        told = ["network", str(size), "127.0.0.1", str(free_port()), "127.0.0.1"]
    flags = [f"--logs={folder / 'logs'}", "--", "--device_target=CPU"]
    found = launch_of(*parse_args([*told, *flags]))
    arguments = [str(folder), str(steps), str(GLOBAL_BATCH)]
    command = [sys.executable, "-m", "tests.ranks.rank_program", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.chdir(folder)  # leaves what MindSpore writes with the test
        code = Supervisor(dataclasses.replace(found, command=command), StopFlag()).run()
    logs = "\n".join(path.read_text()[-2000:] for path in (folder / "logs").glob("*.log"))
    assert code == 0, logs
    return folder


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Array]]:
    """What one rank makes of the whole batches, by "dense" and "crossed"."""
    trained = trained_in(launch(tmp_path_factory.mktemp("alone"), "network", 1), 1)
    return {kind: ranks[0] for kind, ranks in trained.items()}


LAUNCHES = [(launcher, size) for launcher in ("network", "mpirun") for size in (2, 4)]


@pytest.fixture(scope="module", params=LAUNCHES, ids="{0[0]}-{0[1]}".format)
def launched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """Where the ranks of a launch have left what they have trained and heard; how many they are."""
    launcher, size = request.param
    return launch(tmp_path_factory.mktemp(f"{launcher}_{size}"), launcher, size), size


def trained_in(folder: Path, size: int) -> dict[str, list[dict[str, Array]]]:
    """What each rank has after training, by "dense" and "crossed"."""
    return {
        kind: [dict(np.load(folder / f"{kind}_{rank}.npz")) for rank in range(size)]
        for kind in KINDS
    }


def assert_trains_the_same(ranks: list[dict[str, Array]], alone: dict[str, Array]) -> None:
    for rank in ranks[1:]:
        assert rank.keys() == ranks[0].keys()
        for name, value in rank.items():
            assert value.tobytes() == ranks[0][name].tobytes(), f"ranks differ in {name}"
    assert ranks[0].keys() == alone.keys()
    for name, value in alone.items():
        bound = TOLERANCE * np.abs(value).max()
        np.testing.assert_allclose(ranks[0][name], value, rtol=0, atol=bound, err_msg=name)


def assert_both_train_the_same(
    trained: dict[str, list[dict[str, Array]]], alone: dict[str, dict[str, Array]]
) -> None:
    for kind in KINDS:
        assert_trains_the_same(trained[kind], alone[kind])


@pytest.mark.slow
def test_two_ranks_train_what_one_does(tmp_path: Path, alone: dict[str, dict[str, Array]]) -> None:
    assert_both_train_the_same(trained_in(launch(tmp_path, "network", 2), 2), alone)


@pytest.mark.ranks
def test_ranks_of_each_launcher_train_what_one_does(
    launched: tuple[Path, int], alone: dict[str, dict[str, Array]]
) -> None:
    assert_both_train_the_same(trained_in(*launched), alone)


@pytest.mark.ranks
def test_training_moves_the_weights_by_far_more_than_the_tolerance(
    alone: dict[str, dict[str, Array]], tmp_path: Path
) -> None:
    """Else ranks that do not train at all would pass."""
    untrained = trained_in(launch(tmp_path, "network", 1, steps=0), 1)
    for kind in KINDS:
        for name in ("wide_weight", "embedding_table", "deep.0.weight"):
            value = alone[kind][name]
            moved = np.abs(value - untrained[kind][0][name]).max()
            assert moved > 1000 * TOLERANCE * np.abs(value).max(), (kind, name)


# --- what ranks tell each other


@pytest.mark.ranks
def test_ranks_talk_agree_and_find_what_differs(launched: tuple[Path, int]) -> None:
    folder, size = launched
    told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    for rank in told:
        assert_talk(rank, size)
    assert_equalised(told, size)
    for number, rank in enumerate(told):
        assert rank["met"] is True
        assert rank["attempts"] == number + 1, "an attempt that came off is not made again"
        assert rank["told"] == ("done" if number == 0 else None)
        assert rank["stop"] is True
        last = number == size - 1
        assert rank["reason"] == ("a test" if last else f"rank {size - 1} asked for a stop")


def assert_talk(told: dict[str, Any], size: int) -> None:
    assert told["shared"] == MESSAGE
    assert told["longer"] is True
    assert told["empty"] == ""
    expected = np.stack([ODD + np.float32(rank) for rank in range(size)])
    assert np.array(told["gathered"], np.float32).tobytes() == expected.tobytes()
    assert told["sum"] == [[size * (size + 1) / 2] * 3] * 2


def assert_equalised(told: list[dict[str, Any]], size: int) -> None:
    others = list(range(1, size))
    unlike = {name: others for name in ("floats", "half", "whole", "bytes", "scalar")}
    expected = Weights(seed=0).bits()
    for rank in told:
        assert rank["differing"] == unlike
        assert rank["sent"] == len(unlike)
        assert rank["again"] == 0, "weights that are equal are not sent"
        assert rank["bits"] == expected, "rank 0's weights, bit by bit"
        assert rank["refused"] == (
            f"rank {size - 1} differs from rank 0 in floats: the ranks no longer train one model"
        )


def test_a_rank_that_is_alone_talks_to_itself() -> None:
    ranks = Ranks()
    assert (ranks.rank, ranks.size, ranks.alone, ranks.is_first) == (0, 1, True, True)
    assert ranks.share(MESSAGE) == MESSAGE
    assert ranks.gather(ODD).tolist() == [ODD.tolist()]
    network = Weights(seed=3)
    before = network.bits()
    assert ranks.make_equal(network) == 0
    ranks.verify_equal(network)
    assert network.bits() == before


def test_a_scheduler_does_not_take_the_processor_from_those_it_answers() -> None:
    before = os.sched_getscheduler(0)
    try:
        run_as_batch_process()
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))
