"""What the flags of a run ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.cluster.settings import ClientSettings
from src.config import Config

LAUNCHERS = {"network": "run_dist_online_train.sh", "mpirun": "mpirun_dist_online_train.sh"}
RUN_NAME = re.compile(r"demo_[0-9a-f]{8}")


class DemoError(RuntimeError):
    """The demo can't continue; the message holds the reason."""


@dataclass(frozen=True)
class Plan:
    """What the flags ask for.

    Attributes:
        data: A Criteo file, None for made rows.
        history_rows: Rows from which the dictionaries are made; None for the default.
        rows: Rows to stream; None for the default.
        steps: Steps to train; None for all rows.
        warm_start_epochs: Passes over the history before the stream.
        ranks: Number of ranks that train.
        launcher: Key in LAUNCHERS of the script that starts several ranks.
        work_dir: Folder for rows, dictionaries, logs and the broker's data.
        trainer_flags: Flags of online_train.py, the run's own names first.
        config: The configuration that online_train.py reads from them.
        cluster: How to connect to Kafka.
    """

    data: Path | None
    history_rows: int | None
    rows: int | None
    steps: int | None
    warm_start_epochs: int
    ranks: int
    launcher: str
    work_dir: Path
    trainer_flags: Sequence[str]
    config: Config
    cluster: ClientSettings

    @property
    def rows_per_step(self) -> int:
        """Rows of a step, over all ranks."""
        return self.config.batch_size * self.ranks

    @property
    def topic_is_ours(self) -> bool:
        """Whether the topic has the run's own name."""
        return RUN_NAME.fullmatch(self.config.topic) is not None
