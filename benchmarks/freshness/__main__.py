"""Measures how long it takes until an answer has learnt from a row.

    python -m benchmarks.freshness
    python -m benchmarks.freshness --rates 500 --probes 200

Kafka, the yr engine, consumer, trainer and scoring service run on this machine. Rows arrive at a
steady rate, and some of them are probes: their values occur in no other row. A probe's time begins
when it is handed to the producer. It ends with the first answer whose position is after the probe
and in which its score has moved. The exit code is 0 when the targets hold at every rate.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.freshness.parts import described, median_parts
from benchmarks.freshness.versions import delta_bytes, versions_of
from examples.demo.plan import DemoError
from examples.live.freshness import Freshness, freshness_of
from examples.live.run import LivePlan, LiveRun
from examples.services.common import ROOT, ServiceError
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.process.ports import free_port
from src.process.stop import StopFlag, stop_on_signals

logger = logging.getLogger("freshness")

RATES = (500, 10)
PROBES = 1_000
TARGETS = {"p50_s": 1.5, "p99_s": 3.0}
SETTLE_SECONDS = 15.0
# With few rows a window closes by time, and so does a batch: both waits are part of the result.
WINDOW_SECONDS = 0.25
BATCH_SECONDS = 0.5
KEEP_VERSIONS = 1_000_000


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        prog="python -m benchmarks.freshness",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag(
        "--rates",
        nargs="+",
        type=int,
        default=list(RATES),
        metavar="N",
        help="rows per second, a run for each (500 10)",
    )
    flag("--probes", type=int, default=PROBES, metavar="N", help=f"probes per run ({PROBES})")
    flag(
        "--json",
        type=path_flag,
        default=ROOT / "build" / "freshness.json",
        help="file of the results (build/freshness.json)",
    )
    flag(
        "--work_dir",
        type=path_flag,
        default=ROOT / "build" / "freshness",
        metavar="DIR",
        help="folder of rows, versions, logs and Kafka's data (build/freshness)",
    )
    arguments = parser.parse_args(argv)
    for value in (*arguments.rates, arguments.probes):
        if value <= 0:
            parser.error(f"rates and probes must be positive, not {value}")
    return arguments


def plan_of(rate: int, probes: int, work_dir: Path) -> LivePlan:
    """A run at a rate: half of few rows are probes, and a tenth of many."""
    probe_every = 2 if rate <= 20 else 10
    folder = work_dir / str(rate)
    return LivePlan(
        work_dir=folder,
        rows_per_second=rate,
        probe_every=probe_every,
        rows=probes * probe_every,
        port=free_port(),
        trainer_flags=(f"--batch_seconds={BATCH_SECONDS}", f"--publish_keep={KEEP_VERSIONS}"),
        consumer_flags=(f"--window_seconds={WINDOW_SECONDS}",),
        consumer=("benchmarks/freshness/timed_consumer", str(folder / "sent")),
        trainer=("benchmarks/freshness/timed_train", str(folder)),
    )


def measure(plan: LivePlan, flag: StopFlag) -> dict[str, object]:
    """One run.

    Returns:
        What build/freshness.json holds for a rate.
    """
    with LiveRun(plan, flag) as run:
        run.warm_up()
        run.stream()
        run.settle(SETTLE_SECONDS)
        freshness = freshness_of(run.probes.all)
        versions = versions_of(plan.published)
        parts = median_parts(run.probes.all, plan.work_dir, versions)
    print(f"{plan.rows_per_second:g} rows/s: {freshness.described}", flush=True)
    print(described(parts), flush=True)
    return {
        **freshness.seconds,
        "probes": freshness.probes,
        "unlearnt": freshness.unlearnt,
        "parts": parts,
        "delta_bytes": delta_bytes(versions),
        "requests": {"served": run.client.served, "failed": run.client.failed},
        "misses": misses(freshness),
    }


def misses(freshness: Freshness) -> list[str]:
    """What does not hold."""
    found = [
        f"{name} {freshness.seconds[name]:.2f} > {target}"
        for name, target in TARGETS.items()
        if freshness.seconds and freshness.seconds[name] > target
    ]
    if freshness.unlearnt or not freshness.seconds:
        found.append(f"{freshness.unlearnt} of {freshness.probes} probes not seen")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the rates one after another; returns the exit code."""
    arguments = parse_args(argv)
    configure_logging()
    flag = StopFlag()
    stop_on_signals(flag)
    rates = {}
    try:
        for rate in arguments.rates:
            plan = plan_of(rate, arguments.probes, arguments.work_dir.resolve())
            rates[str(rate)] = measure(plan, flag)
            if flag.is_set():
                return 1
    except (DemoError, ServiceError, OSError) as error:
        logger.error("%s", error)
        return 1
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"targets": TARGETS, "rates": rates}, indent=2) + "\n")
    logger.info("results in %s", arguments.json)
    failed = {rate: result["misses"] for rate, result in rates.items() if result["misses"]}
    for rate, reasons in failed.items():
        logger.error("%s rows/s: missed: %s", rate, reasons)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
