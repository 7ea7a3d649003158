"""What another launch has left in the environment."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.services.common import ROOT
from src.ranks.placement import MEETING_VARIABLE, RankError, Role, find_placement
from src.ranks.surroundings import clear_for_a_launch, left_over, other_launcher

KEPT = {
    "CUDA_VISIBLE_DEVICES": "1",
    "DEVICE_ID": "1",
    "HOME": "/root",
    "MS_DEV_SIDE_EFFECT_LOAD_ELIM": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_MCA_btl": "tcp,self",
    "PMIX_MCA_gds": "hash",
    "RANK": "0",
}
LEFT = {
    "DEVICE_NUM": "8",
    "MS_NODE_ID": "3",
    "MS_SCHED_HOST": "192.0.2.1",
    "MS_SCHED_PORT": "8118",
    "MS_WORKER_NUM": "2",
    "OMPI_COMMAND": "python",
    "OMPI_MCA_ess": "env",
    "OMPI_MCA_orte_ess_num_procs": "2",
    "PMIX_RANK": "0",
    "PMI_RANK": "0",
    "RANK_ID": "1",
    "RANK_TABLE_FILE": "/nowhere",
}


def test_left_over_variables_are_told_from_a_users_own() -> None:
    assert left_over({**KEPT, **LEFT}) == sorted(LEFT)


def test_a_trainer_that_is_alone_clears_them_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environment = {**KEPT, **LEFT}
    with caplog.at_level(logging.INFO):
        assert find_placement("CPU", environment).role is Role.ALONE
    assert environment == KEPT
    (line,) = caplog.messages
    assert "DEVICE_NUM, MS_NODE_ID" in line and line.endswith(" and 6 more")


@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [
        ("SLURM_STEP_NUM_TASKS", "4", True),
        ("SLURM_STEP_NUM_TASKS", "1", False),
        ("SLURM_NTASKS", "4", False),  # of an allocation in which nothing has been started
        ("PMI_SIZE", "2", True),
        ("WORLD_SIZE", "2", True),
        ("WORLD_SIZE", "1", False),
        ("WORLD_SIZE", "", False),
        ("RANK_SIZE", "8", True),
        ("RANK_SIZE", "1", False),
    ],
)
def test_processes_of_another_launcher_do_not_train_each_alone(
    name: str, value: str, is_refused: bool
) -> None:
    fault = other_launcher({name: value})
    assert (fault is not None) == is_refused
    if fault is not None:
        assert fault.startswith(f"{name} is {value}") and f"unset {name}" in fault
        with pytest.raises(RankError, match=f"^{name} is {value}"):
            find_placement("CPU", {name: value})


@pytest.mark.parametrize("has_slurm", [True, False])
def test_slurms_variables_go_only_where_slurm_is_not(has_slurm: bool, tmp_path: Path) -> None:
    if has_slurm:
        program = tmp_path / "srun"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    environment = {**KEPT, "PATH": str(tmp_path), "SLURM_JOBID": "5", "SLURM_NODELIST": "a"}
    clear_for_a_launch(environment)
    assert ("SLURM_JOBID" in environment) == has_slurm
    assert KEPT.items() <= environment.items()


def test_a_worker_that_no_launcher_has_started_is_refused() -> None:
    environment = {"MS_ROLE": "MS_WORKER", **LEFT}
    with pytest.raises(RankError, match="MS_ROLE is MS_WORKER, but no launcher .* unset MS_ROLE"):
        find_placement("CPU", environment)
    assert find_placement("CPU", {**environment, MEETING_VARIABLE: "9"}).role is Role.WORKER


def run_with(
    left: dict[str, str], command: list[str], folder: Path
) -> subprocess.CompletedProcess[str]:
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "MS_"))
    }
    environment = {**own, "PYTHONPATH": str(ROOT), **left}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("left", "named"),
    [
        ({"MS_ROLE": "MS_WORKER"}, "MS_ROLE is MS_WORKER, but MS_SCHED_HOST is not set"),
        ({"MS_ROLE": "MS_WORKER", **LEFT}, "unset MS_ROLE to train alone"),
        ({"MS_ROLE": "MS_SCHED", **LEFT}, "unset MS_ROLE to train alone"),
        ({"MS_ROLE": "worker"}, "unset it to train alone"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK is None"),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
            "unset OMPI_COMM_WORLD_SIZE to train alone",
        ),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "unset SLURM_STEP_NUM_TASKS"),
    ],
)
def test_the_trainer_refuses_them_with_one_line(
    left: dict[str, str], named: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "online_train.py"), "--device_target=CPU"]
    ended = run_with(left, command, tmp_path)
    line = ended.stderr.splitlines()[-1]
    assert (ended.returncode, ended.stdout) == (2, "")
    assert named in line and "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


SHOWS_ITS_VARIABLES = """
import os
names = sorted(n for n in os.environ if n.startswith(("MS_", "RANK_", "SLURM_")))
size, job = os.environ.get("OMPI_COMM_WORLD_SIZE"), os.environ.get("OMPI_MCA_ess_base_jobid")
# In one piece: mpirun mixes what its ranks write piece by piece.
os.write(1, f"{names}\\n{size} {job == 'stale'}\\n".encode())
"""


def test_mpirun_starts_where_another_launch_has_left_its_variables(tmp_path: Path) -> None:
    """The real mpirun fails with these variables, and starts once they are cleared."""
    script = tmp_path / "rank.py"
    script.write_text(SHOWS_ITS_VARIABLES)
    code = (
        "import os, sys\n"
        "from src.ranks.surroundings import clear_for_a_launch\n"
        "if sys.argv.pop(1) == 'clear':\n"
        "    clear_for_a_launch(os.environ)\n"
        "os.execvp('mpirun', ['mpirun', '--allow-run-as-root', '--oversubscribe', '-n', '2',\n"
        "    '--bind-to', 'none', *sys.argv[1:]])\n"
    )
    left = {
        **LEFT,
        "OMPI_COMM_WORLD_SIZE": "7",
        "OMPI_MCA_ess_base_jobid": "stale",
        "SLURM_JOBID": "5",
        "SLURM_NODELIST": "elsewhere",
    }
    ranks = [sys.executable, str(script)]
    failed = run_with(left, [sys.executable, "-c", code, "keep", *ranks], tmp_path)
    assert failed.returncode != 0
    ended = run_with(left, [sys.executable, "-c", code, "clear", *ranks], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.splitlines()) == ["2 False", "2 False", "[]", "[]"]
