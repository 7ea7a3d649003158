"""The role of a trainer process: alone, an MPI rank, or a node of a dynamic network.

MindSpore reads from the environment how to communicate, at the moment it is imported. So the role
is determined before, and nothing here imports MindSpore.
"""

from __future__ import annotations

import ctypes
import enum
import logging
import signal
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

from src.process.child_processes import end_with_parent
from src.process.stop import STOP_SIGNALS
from src.ranks.surroundings import clear, left_over, other_launcher

logger = logging.getLogger(__name__)

# mpirun forwards SIGUSR1 to its ranks; after a SIGTERM it kills them.
MPI_STOP_SIGNALS = (*STOP_SIGNALS, signal.SIGUSR1)

# A process with these variables is an MPI rank to MindSpore, whose MPI collectives need GPUs.
MPI_MARKS = ("OMPI_COMMAND", "PMIX_RANK")
INDEX_VARIABLE = "ONLINE_TRAIN_INDEX"
MEETING_VARIABLE = "ONLINE_TRAIN_MEETING_SECONDS"
NOT_MET_EXIT_CODE = 75  # sysexits.h: a temporary failure, worth another try


class RankError(RuntimeError):
    """The ranks can't start or go on together; one line says why."""


class Role(enum.Enum):
    """What a process does in a launch."""

    ALONE = "alone"
    MPI_RANK = "rank under MPI"
    WORKER = "worker of a dynamic network"
    SCHEDULER = "scheduler of a dynamic network"


@dataclass(frozen=True)
class Placement:
    """The place of a process in its launch.

    Attributes:
        role: What it does.
        size: How many ranks there are.
        index: The number that the launcher gave it. Its rank is another number: in a dynamic
            network ranks follow the order in which workers register.
        stop_signals: The signals that stop it.
    """

    role: Role
    size: int = 1
    index: int = 0
    stop_signals: Sequence[signal.Signals] = STOP_SIGNALS


def find_placement(device_target: str, environment: MutableMapping[str, str]) -> Placement:
    """Determines the placement of this process, before MindSpore is imported.

    A rank under MPI that is to train on the CPU becomes a worker of a dynamic network. A trainer
    that is alone forgets what another launch has left in its environment.

    Args:
        device_target: The trainer's flag of that name.
        environment: The variables of this process; they may be changed.

    Raises:
        RankError: A variable is missing, wrong or left over; the message names it.
    """
    placement = placement_of(environment)
    if placement.role is Role.ALONE:
        fault = other_launcher(environment)
        if fault is not None:
            raise RankError(fault)
        clear(environment, left_over(environment))
    elif placement.role is not Role.MPI_RANK and MEETING_VARIABLE not in environment:
        raise RankError(
            f"MS_ROLE is {environment['MS_ROLE']}, but no launcher has started this process: "
            "unset MS_ROLE to train alone, or start ranks with run_dist_online_train.sh "
            f"(by hand: set {MEETING_VARIABLE})"
        )
    if placement.role is Role.MPI_RANK:
        end_with_parent()  # a killed mpirun would leave its ranks running
        if cpu_is_meant(device_target):
            logger.info("MindSpore has no MPI on the CPU: the ranks become a dynamic network")
            placement = map_mpi_to_dynamic_network(placement, environment)
        placement = replace(placement, stop_signals=MPI_STOP_SIGNALS)
    return placement


def placement_of(environment: Mapping[str, str]) -> Placement:
    """Reads the variables that Open MPI and MindSpore's dynamic networking set.

    Raises:
        RankError: One is missing or not a number; the message names it.
    """
    role = environment.get("MS_ROLE")
    if role in ("MS_SCHED", "MS_WORKER"):
        for name in ("MS_SCHED_HOST", "MS_SCHED_PORT"):
            if not environment.get(name):
                raise RankError(f"MS_ROLE is {role}, but {name} is not set")
        size = _number(environment, "MS_WORKER_NUM", least=1)
        if role == "MS_SCHED":
            return Placement(Role.SCHEDULER, size)
        return Placement(Role.WORKER, size, _number(environment, INDEX_VARIABLE, default=0))
    if role:
        raise RankError(
            f"MS_ROLE is {role}, but must be MS_SCHED or MS_WORKER: unset it to train alone"
        )
    if "OMPI_COMM_WORLD_SIZE" in environment:
        size = _number(environment, "OMPI_COMM_WORLD_SIZE", least=1)
        if size > 1:
            return Placement(Role.MPI_RANK, size, _number(environment, "OMPI_COMM_WORLD_RANK"))
    return Placement(Role.ALONE)


def map_mpi_to_dynamic_network(
    placement: Placement, environment: MutableMapping[str, str]
) -> Placement:
    """Makes a rank under ``mpirun`` a worker of a dynamic network, whose scheduler must run.

    MindSpore has no MPI collectives for the CPU. ``mpirun_dist_online_train.sh`` starts the
    scheduler and sets its address for all ranks.

    Raises:
        RankError: The scheduler's address is not set.
    """
    if not (environment.get("MS_SCHED_HOST") and environment.get("MS_SCHED_PORT")):
        raise RankError(
            "under mpirun the CPU's ranks need a scheduler (MS_SCHED_HOST, MS_SCHED_PORT): "
            "start them with mpirun_dist_online_train.sh, or unset OMPI_COMM_WORLD_SIZE to train "
            "alone"
        )
    for name in MPI_MARKS:
        environment.pop(name, None)
    environment["MS_ROLE"] = "MS_WORKER"
    environment["MS_WORKER_NUM"] = str(placement.size)
    environment[INDEX_VARIABLE] = str(placement.index)
    return Placement(Role.WORKER, placement.size, placement.index)


def cpu_is_meant(device_target: str) -> bool:
    """Whether ``--device_target`` means the CPU, as far as can be known without MindSpore.

    On a host with a CUDA driver "auto" means the GPU for ranks: all must decide alike.
    """
    if device_target != "auto":
        return device_target == "CPU"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


def _number(
    environment: Mapping[str, str], name: str, least: int = 0, default: int | None = None
) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal() or int(text) < least:
        raise RankError(f"{name} is {text!r}, but must be a whole number of at least {least}")
    return int(text)
