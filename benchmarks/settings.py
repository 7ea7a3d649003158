"""Sizes and services of a benchmark run, and the folder of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from examples.services.common import HOST, ROOT

WORK_DIR = ROOT / "build" / "bench"
ADAPTIVE = ROOT / "examples" / "adaptive.yaml"
VOCAB_SIZE = 200_000  # the documented one: the dictionaries of all stages fit it


@dataclass(frozen=True)
class Settings:
    """The settings that every stage gets.

    Attributes:
        windows: Rows per window; stages with one window size take the first.
        batches: Rows per batch; stages with one batch size take the first.
        rows: Rows per round for this project's side of a stage; the documented way may get a part
            of them.
        repeats: Rounds that count, each with every way once.
        work_dir: Folder of inputs, logs and checkpoints.
        bootstrap_servers: The broker, for the stages that need one.
        address: The yr engine's address, for the stages that need it.
        pytorch: A Python with PyTorch, for the stages that compare with it; None for no peer.
        vowpal_wabbit: Likewise one with Vowpal Wabbit.
    """

    windows: tuple[int, ...] = (1_000, 10_000)
    batches: tuple[int, ...] = (100, 1_000)
    rows: int = 100_000
    repeats: int = 5
    work_dir: Path = WORK_DIR
    bootstrap_servers: str = ""
    address: str = HOST
    pytorch: Path | None = None
    vowpal_wabbit: Path | None = None
