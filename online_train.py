"""Step 6: trains Wide&Deep on the stream for as long as it flows.

Step 7 starts it several times over, as the ranks of a launch: see the two scripts ``*_dist_*.sh``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Optional

from src.config import Config, ConfigError, load_config
from src.process.child_processes import end_with_parent
from src.process.garbage import collected_rarely
from src.process.logs import configure_logging, keep_stdout_for_ourselves
from src.process.stop import STOP_SIGNALS, StopFlag, stop_on_signals
from src.ranks.placement import (
    Placement,
    RankError,
    Role,
    cpu_is_meant,
    map_mpi_to_dynamic_network,
    placement_of,
)

logger = logging.getLogger("online_train")


def parse_args(argv: Optional[Sequence[str]] = None) -> Config:
    """Reads default_config.yaml, a --config_path on top of it, and the flags on top of both."""
    return load_config(argv)


def find_placement(config: Config) -> Placement:
    """What this process is among others; must be known before MindSpore is imported.

    Raises:
        RankError: The environment does not say it as it should.
    """
    placement = placement_of(os.environ)
    if placement.role is Role.MPI_RANK:
        end_with_parent()  # a killed mpirun would leave its ranks running
        if cpu_is_meant(config.device_target):
            logger.info("MindSpore has no MPI on the CPU: the ranks become a dynamic network")
            placement = map_mpi_to_dynamic_network(placement, os.environ)
    return placement


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the trainer until it is stopped."""
    configure_logging()
    try:
        config = parse_args(argv)
        is_under_mpi = placement_of(os.environ).role is Role.MPI_RANK
        placement = find_placement(config)
    except (ConfigError, RankError) as error:
        logger.error("%s", error)
        return 2
    flag = StopFlag()
    # mpirun passes this one on to its ranks, and no other in peace.
    stop_on_signals(flag, (*STOP_SIGNALS, signal.SIGUSR1) if is_under_mpi else STOP_SIGNALS)
    keep_stdout_for_ourselves()
    with collected_rarely():  # else a tenth of it is looking for garbage that is not there
        from src.trainer.service import run_trainer  # MindSpore takes seconds: --help should not

    return run_trainer(config, flag, placement)


if __name__ == "__main__":
    sys.exit(main())
