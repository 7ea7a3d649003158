"""Run by every rank of a launch in place of ``online_train.py``: trains, then talks.

    python -m tests.ranks.rank_program FOLDER STEPS GLOBAL_BATCH

Each rank writes ``dense_<rank>.npz`` and ``sparse_<rank>.npz``, the parameters, losses and logits
of its training, and ``<rank>.json``, what it has received from the others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from src.ranks.placement import (
    NOT_MET_EXIT_CODE,
    RankError,
    Role,
    map_mpi_to_dynamic_network,
    placement_of,
)

if __name__ == "__main__":  # before MindSpore is imported
    placement = placement_of(os.environ)
    if placement.role is Role.MPI_RANK:
        placement = map_mpi_to_dynamic_network(placement, os.environ)

import mindspore as ms
import numpy as np

from src.process.exit_handlers import exit_without_handlers
from src.ranks.meeting import meet, serve_as_scheduler
from tests.ranks.rank_messages import talk
from tests.ranks.rank_step import KINDS, train_kind

LAST_RANK_SECONDS = 60.0


def main(argv: list[str]) -> int:
    """Trains and talks as one of the ranks."""
    folder, steps, global_batch = Path(argv[0]), int(argv[1]), int(argv[2])
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    if placement.role is Role.SCHEDULER:
        serve_as_scheduler()
    try:
        ranks = meet(placement)
    except RankError:
        return NOT_MET_EXIT_CODE  # MindSpore's start does not always come off
    for kind in KINDS:
        trained = train_kind(kind, steps, global_batch, ranks)
        np.savez(folder / f"{kind}_{ranks.rank}.npz", **trained)
    (folder / f"{ranks.rank}.json").write_text(json.dumps(talk(ranks)))
    wait_for_all(folder, ranks.size)
    exit_without_handlers(0)


def wait_for_all(folder: Path, size: int) -> None:
    """Waits until every rank has ended its last exchange.

    A rank can hold the result of an exchange while another still waits for the receipt of what it
    has sent. If the first one ended now, the receipt would never come, and the other would fail.
    """
    give_up_at = time.monotonic() + LAST_RANK_SECONDS
    while not all((folder / f"{rank}.json").exists() for rank in range(size)):
        if time.monotonic() > give_up_at:
            sys.exit("a rank has not ended its last exchange")
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
