"""Vowpal Wabbit, run by a Python of its own."""

from __future__ import annotations

import logging
import subprocess
import venv
from pathlib import Path

import numpy as np

from benchmarks.learning.rows import LearningError, Rows
from benchmarks.learning.scores import Learnt, judged
from examples.services.common import ROOT

logger = logging.getLogger("learning")

VOWPAL_WABBIT = "vowpalwabbit==9.10.0"


def learn_with_vowpal_wabbit(way: str, rows: Rows, work_dir: Path) -> Learnt:
    """One pass of Vowpal Wabbit; it learns from the history first, as `adaptive` does.

    Args:
        way: One of `PEERS`.
        rows: The rows.
        work_dir: Folder for its scores.

    Raises:
        LearningError: It can't be installed, or failed.
    """
    output = work_dir / f"{way}.scores"
    total = rows.history + rows.stream
    seconds = one_pass(vowpal_wabbit_python(), way, rows.path, total, output) * rows.stream / total
    scores = np.fromfile(output, dtype=np.float64)[rows.history :]
    with open(rows.path, "rb") as file:
        labels = np.array([line[:1] == b"1" for line in file], dtype=np.float64)
    return judged(way, labels[rows.history : total], scores, seconds)


def one_pass(python: Path, way: str, path: Path, rows: int, output: Path) -> float:
    """Learns from the first rows of a file; seconds, the parsing of the features included.

    Args:
        python: See ``vowpal_wabbit_python``.
        way: One of `PEERS`.
        path: The file.
        rows: How many rows.
        output: File for the logits.

    Raises:
        LearningError: It failed.
    """
    script = ROOT / "benchmarks" / "learning" / "vowpal_wabbit.py"
    command = [str(python), str(script), way, str(path), "0", str(rows), str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise LearningError(f"Vowpal Wabbit failed: {said[-1]}")
    return float(done.stdout.split()[-1])


def vowpal_wabbit_python() -> Path:
    """The Python of an environment with Vowpal Wabbit, which needs another NumPy than ours.

    Raises:
        LearningError: It can't be installed.
    """
    folder = ROOT / "build" / "vowpal_wabbit"
    python = folder / "bin" / "python"
    is_there = (
        python.exists()
        and not subprocess.run(
            [str(python), "-c", "import vowpalwabbit"], capture_output=True
        ).returncode
    )
    if not is_there:
        logger.info("installing %s into an environment of its own", VOWPAL_WABBIT)
        venv.create(folder, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-q", VOWPAL_WABBIT, "numpy<2"]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            raise LearningError(f"{VOWPAL_WABBIT} can't be installed: {done.stderr.strip()[-200:]}")
    return python
