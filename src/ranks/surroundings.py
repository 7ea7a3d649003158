"""Environment variables that launches leave behind, in a shell or in a container.

MindSpore and mpirun believe such variables. So a launcher clears them before it starts anything,
and so does a trainer that is alone.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, MutableMapping

logger = logging.getLogger(__name__)

MOST_NAMES = 6
_OF_A_LAUNCH = re.compile(
    r"MS_(ROLE|WORKER_NUM|SERVER_NUM|SCHED_HOST|SCHED_PORT|NODE_ID)"
    r"|RANK_ID|RANK_SIZE|RANK_TABLE_FILE|DEVICE_NUM"
    r"|ONLINE_TRAIN_(INDEX|MEETING_SECONDS|HEARTBEATS)"
    # What mpirun tells its ranks; OMPI_MCA_… and PMIX_MCA_… are also a user's own settings.
    r"|OMPI_(?!MCA_|ALLOW_RUN_AS_ROOT)\w+|PMIX_(?!MCA_)\w+|PMI_(RANK|SIZE|FD)"
    r"|OMPI_MCA_(ess|ess_base_\w+|pmix|initial_wdir|shmem_RUNTIME_QUERY_hint)"
    r"|OMPI_MCA_orte_(app_num|ess_\w+|hnp_uri|jobfam_\w+|launch|local_daemon_uri|num_nodes"
    r"|precondition_\w+|top_session_dir)"
)
_TASKS_OF = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "PMI_SIZE": "another MPI's mpiexec",
    "WORLD_SIZE": "torchrun",
    "RANK_SIZE": "a launch for Ascend",
}
"""Variables with the number of processes that something else has started."""


def left_over(environment: Mapping[str, str]) -> list[str]:
    """The names of the variables that belong to an earlier or an outer launch."""
    return sorted(name for name in environment if _OF_A_LAUNCH.fullmatch(name))


def clear_for_a_launch(environment: MutableMapping[str, str]) -> None:
    """Removes what a launcher's processes must not inherit, and logs the names.

    Slurm's variables go too where Slurm is not installed: mpirun would ask it for processors.
    """
    names = left_over(environment)
    if shutil.which("srun", path=environment.get("PATH")) is None:
        names += sorted(name for name in environment if name.startswith("SLURM_"))
    clear(environment, names)


def clear(environment: MutableMapping[str, str], names: list[str]) -> None:
    """Removes variables and logs their names on one line."""
    for name in names:
        del environment[name]
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        logger.info(
            "not used, as another launch has set it: %s%s", ", ".join(names[:MOST_NAMES]), more
        )


def other_launcher(environment: Mapping[str, str]) -> str | None:
    """What is wrong if something else has started several of these processes; None if nothing.

    Each of them would train alone, on the same rows and into the same folder.
    """
    for name, launcher in _TASKS_OF.items():
        size = environment.get(name, "")
        if size.isdecimal() and int(size) > 1:
            return (
                f"{name} is {size}, as if {launcher} had started {size} processes that train each "
                "alone: start ranks with run_dist_online_train.sh or mpirun_dist_online_train.sh, "
                f"or unset {name}"
            )
    return None
