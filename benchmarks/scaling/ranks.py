"""How training scales over ranks: measured with one and two here, computed for GPUs.

    python -m benchmarks.scaling.ranks [--ranks 1 2] [--batch 100] [--repeats 20]

It times the step of the default model on random rows, without Kafka and the engine. All ranks run
on this machine's CPU. AllReduce is also timed alone, with the step's own buffer. It is compared
with a model: a latency and a bandwidth, fitted on two other sizes in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import machine
from examples.services.common import HOST, ROOT
from src.process.flags import FlagParser
from src.process.logs import configure_logging
from src.process.ports import free_port
from src.process.stop import StopFlag
from src.ranks.launch import launch_of
from src.ranks.launch import parse_args as parse_launch
from src.ranks.supervisor import Supervisor

FLOAT_BYTES = 4
KINDS = ("dense", "sparse")
DEFAULT_LAYERS = (39 * 80, 1024, 512, 256, 128, 1)
DEFAULT_TABLE = 200_000 * (80 + 1)


@dataclass(frozen=True)
class Measured:
    """The measurement of one kind of step on some ranks.

    Attributes:
        kind: "dense" or "sparse".
        ranks: The number of ranks.
        step_ms: Time of a step, with the reading of its losses.
        rows_per_second: Rows per second of all ranks.
        floats: Floats that a step reduces.
        reduce_ms: Time of an AllReduce of these floats alone.
        predicted_ms: The same time by the model.
        agree_ms: Time to agree on a step for which all ranks are ready.
    """

    kind: str
    ranks: int
    step_ms: float
    rows_per_second: float
    floats: int
    reduce_ms: float
    predicted_ms: float
    agree_ms: float


@dataclass(frozen=True)
class Link:
    """The network between the ranks of an imagined machine.

    Attributes:
        name: The machine.
        ranks: N.
        gb_per_second: Bus bandwidth of an AllReduce, 10⁹ bytes a second.
        latency_us: Latency of each of its 2 · (N − 1) rounds.
    """

    name: str
    ranks: int
    gb_per_second: float
    latency_us: float


LINKS = (
    Link("8 GPUs, NVLink", 8, 200.0, 5.0),
    Link("64 GPUs, 8 hosts, one 200 Gb/s link a GPU", 64, 20.0, 10.0),
)


def layer_floats(widths: Sequence[int] = DEFAULT_LAYERS) -> int:
    """Weights and biases of the dense layers, and the wide part's bias."""
    return 1 + sum((n_in + 1) * n_out for n_in, n_out in zip(widths, widths[1:]))


def exchanged_floats(ranks: int, batch: int, fields: int = 39, emb_dim: int = 80) -> int:
    """Floats that our step reduces, see ``src/ranks/exchange.py``: layers, a loss, and N slots."""
    slot = batch * fields * (emb_dim + 3) + batch
    return layer_floats() + 1 + ranks * slot


def table_floats() -> int:
    """Floats that a step would reduce if it sent the gradients of whole tables."""
    return layer_floats() + 1 + DEFAULT_TABLE


def ring_ms(floats: int, link: Link) -> float:
    """A ring's AllReduce: each rank sends 2 (N − 1) / N of the buffer in 2 (N − 1) rounds, ms."""
    rounds = 2 * (link.ranks - 1)
    seconds = rounds / link.ranks * floats * FLOAT_BYTES / (link.gb_per_second * 1e9)
    return 1e3 * (seconds + rounds * link.latency_us * 1e-6)


def fitted_ms(probed: Mapping[int, float], floats: int) -> float:
    """AllReduce of some floats by latency and bandwidth, from the times of two other sizes, ms."""
    (small, small_ms), (large, large_ms) = sorted(probed.items())
    slope = (large_ms - small_ms) / (large - small)
    return small_ms + slope * (floats - small)


def measure(kind: str, ranks: int, batch: int, repeats: int, folder: Path) -> Measured:
    """Runs the ranks on this machine.

    Raises:
        RuntimeError: They did not end.
    """
    file = folder / f"{kind}_{ranks}.json"
    arguments = ["network", str(ranks), HOST, str(free_port()), HOST]
    launch = launch_of(*parse_launch([*arguments, f"--logs={folder}", "--", "--device_target=CPU"]))
    worker = [sys.executable, "-m", "benchmarks.scaling.rank_worker"]
    command = [*worker, str(file), str(batch), str(repeats), kind]
    if Supervisor(dataclasses.replace(launch, command=command), StopFlag()).run() != 0:
        raise RuntimeError(f"{ranks} ranks did not end; see their output above")
    found = json.loads(file.read_text())
    reduced = {int(size): ms for size, ms in found["reduce_ms"].items()}
    own = reduced.pop(found["floats"], 0.0)
    predicted = fitted_ms(reduced, found["floats"]) if reduced else 0.0
    rate = 1e3 * ranks * batch / found["step_ms"]
    return Measured(
        kind=kind,
        ranks=ranks,
        step_ms=found["step_ms"],
        rows_per_second=rate,
        floats=found["floats"],
        reduce_ms=own,
        predicted_ms=predicted,
        agree_ms=found["agree_ms"],
    )


def measured_table(results: Sequence[Measured]) -> list[str]:
    """The measurements as a Markdown table."""
    lines = [
        "| step | ranks | ms | rows/s | MB reduced | AllReduce ms | by the model | share "
        "| agreeing ms | share |",
        f"|{' --- |' * 10}",
    ]
    for r in results:
        cells = (
            r.kind,
            f"{r.ranks}",
            f"{r.step_ms:.1f}",
            f"{r.rows_per_second:,.0f}",
            f"{FLOAT_BYTES * r.floats / 1e6:.1f}",
            f"{r.reduce_ms:.1f}",
            f"{r.predicted_ms:.1f}",
            f"{r.reduce_ms / r.step_ms:.0%}",
            f"{r.agree_ms:.2f}",
            f"{r.agree_ms / r.step_ms:.1%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def paper_table(batch: int) -> list[str]:
    """A Markdown table: the data that GPUs exchange per step of the default model, and the time."""
    lines = [
        "| machine | what travels | MB | AllReduce ms |",
        "| --- | --- | --- | --- |",
    ]
    for link in LINKS:
        ways = {
            "rows of the batch and dense layers (ours)": exchanged_floats(link.ranks, batch),
            "whole tables and dense layers": table_floats(),
        }
        for name, floats in ways.items():
            megabytes = FLOAT_BYTES * floats / 1e6
            lines.append(
                f"| {link.name} | {name} | {megabytes:.1f} | {ring_ms(floats, link):.2f} |"
            )
    return lines


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = FlagParser(description=(__doc__ or "").partition("\n")[0])
    flag = parser.add_argument
    flag("--ranks", nargs="+", type=int, default=[1, 2], help="numbers of ranks (1 2)")
    flag("--batch", type=int, default=100, help="rows per step on each rank (%(default)s)")
    flag("--repeats", type=int, default=20, help="steps that count (%(default)s)")
    arguments = parser.parse_args(argv)
    if min(*arguments.ranks, arguments.batch, arguments.repeats) < 1:
        parser.error("--ranks, --batch and --repeats must be positive")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and prints both tables."""
    configure_logging()
    arguments = parse_args(argv)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    )
    results = []
    with tempfile.TemporaryDirectory(prefix="rank_scaling_") as folder:
        for kind in KINDS:
            for ranks in arguments.ranks:
                try:
                    found = measure(kind, ranks, arguments.batch, arguments.repeats, Path(folder))
                except RuntimeError as error:
                    logging.getLogger("benchmarks").error("%s", error)
                    return 1
                results.append(found)
    about = [f"{name}: {value}" for name, value in machine().items()]
    for line in (*about, "", *measured_table(results), "", *paper_table(arguments.batch)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
