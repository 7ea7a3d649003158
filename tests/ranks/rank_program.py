"""Run by every rank of a launch in place of ``online_train.py``: trains, then talks.

    python -m tests.ranks.rank_program FOLDER STEPS GLOBAL_BATCH

Each rank writes ``dense_<rank>.npz`` and ``sparse_<rank>.npz``, the parameters, losses and logits
of its training, and ``<rank>.json``, what it has been told by the others.
"""

from __future__ import annotations

import json
import os
import sys
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
    exit_without_handlers(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
