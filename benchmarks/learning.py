"""Compares how well and how fast each way learns, on the same rows in the same order.

    python -m benchmarks.learning
    python -m benchmarks.learning --data FILE --history_rows 5000

Every way makes one pass over the stream and scores each row before it learns from it. Rows before
the stream, the history, are what the dictionaries are made from; `adaptive` and Vowpal Wabbit also
learn from them first. No broker and no engine take part, so rows/s are those of features and
training alone. The exit code is 0 when `adaptive` has a higher AUC and a lower log loss than Vowpal
Wabbit and at least 60 % of the rows/s of `sparse`.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import mindspore as ms
import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.child import run_in_child
from examples.local_services import ROOT
from examples.make_sample import write_sample
from examples.process_data import DataError, Processed, process
from src.config import Config, load_config
from src.dictionaries.dictionaries import Dictionaries, DictionaryError
from src.features.feature_builder import FeatureBuilder
from src.features.row_file import FileBatch, RowFileError, batches_of_file
from src.model.row_reset import RowReset
from src.process.arrays import Array
from src.process.logs import configure_logging
from src.rows.criteo import DENSE_SIZE
from src.trainer.train import build_network, growth_of

logger = logging.getLogger("learning")

ADAPTIVE = ROOT / "examples" / "adaptive.yaml"
VOWPAL_WABBIT = "vowpalwabbit==9.10.0"
SAMPLE_HISTORY_ROWS = 15_000
LEAST_SPEED = 0.6
WAYS = ("upstream", "documented", "sparse", "adaptive", "vowpal_wabbit")


class LearningError(RuntimeError):
    """A way could not be measured; one line says why."""


@dataclass(frozen=True)
class Rows:
    """What all ways learn from.

    Attributes:
        path: The file.
        history: Rows at its beginning from which the dictionaries are made.
        stream: Rows behind them, a multiple of the batch size.
        made: The dictionaries.
    """

    path: Path
    history: int
    stream: int
    made: Processed


@dataclass(frozen=True)
class Learnt:
    """How a way did.

    Attributes:
        way: Its name.
        auc: Of all rows of the stream.
        log_loss: The same.
        last_auc: Of the second half of them.
        last_log_loss: The same.
        rows_per_second: Of the stream.
    """

    way: str
    auc: float
    log_loss: float
    last_auc: float
    last_log_loss: float
    rows_per_second: float

    def __str__(self) -> str:
        return (
            f"{self.way:<14}{self.auc:>8.4f}{self.log_loss:>10.4f}{self.last_auc:>11.4f}"
            f"{self.last_log_loss:>10.4f}{self.rows_per_second:>10.0f}"
        )


HEADER = f"{'way':<14}{'AUC':>8}{'log loss':>10}{'last half:':>11}{'':>10}{'rows/s':>10}"


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--data", type=Path, metavar="FILE", help="a Criteo file instead of made rows")
    flag("--rows", type=int, help="rows to stream (a million; with --data all the rest)")
    flag("--history_rows", type=int, default=SAMPLE_HISTORY_ROWS, help="history (%(default)s)")
    flag("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which ones (all)")
    flag("--work_dir", type=Path, default=ROOT / "build" / "learning", help="build/learning")
    arguments = parser.parse_args(argv)
    for name in ("rows", "history_rows"):
        if getattr(arguments, name) is not None and getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be positive")
    return arguments


# --- the rows -------------------------------------------------------------------------------------


def prepare(arguments: argparse.Namespace) -> Rows:
    """Makes or counts the rows, and makes the dictionaries.

    Raises:
        LearningError: There are too few.
        DataError, DictionaryError, OSError: The file can't be used.
    """
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    path, history = arguments.data, arguments.history_rows
    if path is None:
        stream = arguments.rows or 1_000_000
        path = arguments.work_dir / f"rows_{history + stream}.tsv"
        if not path.exists():
            write_sample([path], history + stream, show_progress=True)
    else:
        with open(path, "rb") as lines:
            stream = sum(1 for _ in lines) - history
        stream = min(stream, arguments.rows or stream)
    batch_size = load_config([]).batch_size
    stream -= stream % batch_size
    if stream <= 0:
        raise LearningError(f"{path} has no {batch_size} rows behind the {history} of the history")
    made = process([path], arguments.work_dir, rows=history, keep_most_frequent=True)
    return Rows(path, history, stream, made)


# --- our ways -------------------------------------------------------------------------------------


def config_of(way: str) -> Config:
    """What a way's trainer is told."""
    if way == "adaptive":
        return load_config([f"--config_path={ADAPTIVE}"])
    return load_config(["--sparse"] if way == "sparse" else [])


def learn(way: str, rows: Rows) -> Learnt:
    """One pass of one of our ways, in this process."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    config = config_of(way)
    ms.set_seed(config.seed)
    network = build_network(config)
    network.set_train()
    growth = growth_of(config, None)
    reset = RowReset(network.row_state())
    features = FeatureBuilder(rows.made.dictionaries, config.dense_transform, config.vocab_size)

    def step(batch: FileBatch) -> Array:
        ids = batch.ids
        if way == "upstream":
            ids = as_upstream_ships(ids, rows.made.dictionaries)
        logit = network(*map(ms.Tensor, (ids, batch.weights, batch.labels)))[2].asnumpy()
        if growth is not None and batch.change is not None:
            growth.follow(batch.change, reset)
        found: Array = logit.ravel()
        return found

    source = (rows.path, features, config.batch_size, growth)
    if way == "adaptive":
        for batch in batches_of_file(*source, limit=rows.history):
            step(batch)
    scores, labels = [], []
    began = time.perf_counter()
    for number, batch in enumerate(batches_of_file(*source, rows.history, rows.stream)):
        scores.append(step(batch))
        labels.append(batch.labels.ravel())
        if number == 0 and way != "adaptive":  # it compiles
            began = time.perf_counter()
    seconds = time.perf_counter() - began
    return judged(way, np.concatenate(labels), np.concatenate(scores), seconds)


def as_upstream_ships(ids: Array, dictionaries: Dictionaries) -> Array:
    """The ids that the example's consumer really gives.

    It looks categorical values up under keys that no dictionary has, so all of them are out of
    vocabulary, and counts the dense columns from 1.
    """
    shipped = ids.copy()
    shipped[:, :DENSE_SIZE] = np.arange(1, DENSE_SIZE + 1)
    shipped[:, DENSE_SIZE:] = dictionaries.oov_ids
    return shipped


def judged(way: str, labels: Array, logits: Array, seconds: float) -> Learnt:
    """The scores of a way.

    Args:
        way: Its name.
        labels: float[rows].
        logits: float[rows], each of before its row was learnt from.
        seconds: What it took.
    """
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    half = len(labels) // 2
    return Learnt(
        way,
        float(roc_auc_score(labels, logits)),
        float(log_loss(labels, probabilities)),
        float(roc_auc_score(labels[half:], logits[half:])),
        float(log_loss(labels[half:], probabilities[half:])),
        len(labels) / seconds,
    )


# --- Vowpal Wabbit --------------------------------------------------------------------------------


def learn_with_vowpal_wabbit(rows: Rows, work_dir: Path) -> Learnt:
    """One pass of Vowpal Wabbit, which is as warm as `adaptive`.

    Raises:
        LearningError: It can't be had, or failed.
    """
    python = _vowpal_wabbit_python()
    output = work_dir / "vowpal_wabbit.scores"
    total = rows.history + rows.stream
    arguments = (rows.path, 0, total, output)
    command = [str(python), str(ROOT / "benchmarks" / "vowpal_wabbit.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LearningError(f"Vowpal Wabbit failed: {done.stderr.strip().splitlines()[-1]}")
    seconds = float(done.stdout.split()[-1]) * rows.stream / total
    scores = np.fromfile(output, dtype=np.float64)[rows.history :]
    with open(rows.path, "rb") as file:
        labels = np.array([line[:1] == b"1" for line in file], dtype=np.float64)
    return judged("vowpal_wabbit", labels[rows.history : total], scores, seconds)


def _vowpal_wabbit_python() -> Path:
    """The Python of an environment with Vowpal Wabbit: its NumPy is not the one that we pin."""
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
            raise LearningError(f"{VOWPAL_WABBIT} can't be had: {done.stderr.strip()[-200:]}")
    return python


# --- the comparison -------------------------------------------------------------------------------


def shortcomings(results: Sequence[Learnt]) -> list[str]:
    """What `adaptive` should have done better; empty where there is nothing to compare it with."""
    by_way = {result.way: result for result in results}
    ours, linear, sparse = (by_way.get(way) for way in ("adaptive", "vowpal_wabbit", "sparse"))
    phrases = []
    if ours and linear and not (ours.auc > linear.auc and ours.log_loss < linear.log_loss):
        phrases.append("adaptive does not beat Vowpal Wabbit on AUC and log loss")
    if ours and sparse and ours.rows_per_second < LEAST_SPEED * sparse.rows_per_second:
        phrases.append(f"adaptive has less than {LEAST_SPEED:.0%} of the rows/s of sparse")
    return phrases


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the ways; returns the exit code."""
    arguments = parse_args(argv)
    configure_logging()
    results = []
    try:
        rows = prepare(arguments)
        for way in arguments.ways:
            logger.info("%s: %d rows", way, rows.stream)
            if way == "vowpal_wabbit":
                results.append(learn_with_vowpal_wabbit(rows, arguments.work_dir))
                continue
            result = run_in_child(learn, way, rows)
            if result is None:
                raise LearningError(f"{way} failed")
            results.append(result)
    except (LearningError, DataError, DictionaryError, RowFileError, OSError) as error:
        logger.error("%s", error)
        return 1
    print(HEADER, *results, sep="\n")
    phrases = shortcomings(results)
    for phrase in phrases:
        print(f"missed: {phrase}")
    return 1 if phrases else 0


if __name__ == "__main__":
    sys.exit(main())
