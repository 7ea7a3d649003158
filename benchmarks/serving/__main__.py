"""Latency of the scoring service, with and without swaps, and what it does under faults.

    python -m benchmarks.serving
    python -m benchmarks.serving --seconds 20 --rounds 1 --no_faults

Kafka, the yr engine, consumer, trainer (examples/adaptive.yaml) and scoring service run on this
machine. An open loop sends requests: see open_loop.py. Without swaps the version that serves is
pinned, and the trainer goes on publishing. The exit code is 0 when the targets hold: no request
failed, and p99.9 with swaps is at most 1.5 times that without.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes.child import run_in_child
from benchmarks.serving.faults import FAULTS, outcome
from benchmarks.serving.live import PREDICT, ServingRun
from benchmarks.serving.open_loop import Answers, OpenLoop, bodies_of, measured
from examples.demo.plan import DemoError
from examples.live.run import LivePlan
from examples.services.common import ROOT, ServiceError
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.process.ports import free_port
from src.process.stop import StopFlag, stop_on_signals
from src.publishing.folder import VersionFolder

logger = logging.getLogger("serving")

RATE, ROWS = 50, 100
BODIES = 50
MOST_RATIO = 1.5
BEFORE_FAULT_SECONDS = 3.0
FULL_EVERY = 10  # a broken delta heals at the next full version: ten seconds at most


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        prog="python -m benchmarks.serving",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--seconds", type=int, default=110, help="of each measurement (%(default)s)")
    flag("--rounds", type=int, default=2, help="measurements with and without swaps (%(default)s)")
    flag("--stream_rate", type=int, default=500, help="rows/s that are learnt (%(default)s)")
    flag("--fault_seconds", type=int, default=60, help="of load around each fault (%(default)s)")
    flag("--no_faults", action="store_true", help="leave the faults out")
    flag("--json", type=path_flag, default=ROOT / "build" / "serving.json", help="results")
    flag("--work_dir", type=path_flag, default=ROOT / "build" / "serving", help="rows, logs …")
    arguments = parser.parse_args(argv)
    if min(arguments.seconds, arguments.rounds, arguments.stream_rate) < 1:
        parser.error("--seconds, --rounds and --stream_rate must be at least 1")
    return arguments


def with_and_without_swaps(
    run: ServingRun, bodies: list[bytes], seconds: int, rounds: int
) -> dict[str, Any]:
    """Measures in turn, and puts the rounds together."""
    folder = VersionFolder(run.plan.published)
    ways: dict[str, Answers] = {"with swaps": Answers(), "without swaps": Answers()}
    swaps = 0
    for way in itertools.chain.from_iterable([list(ways)] * rounds):
        if way == "without swaps":
            folder.roll_back(run.status()["name"])
            time.sleep(1)
        before = run.status()["swaps"]
        found = run_in_child(measured, run.plan.port, PREDICT, bodies, RATE, seconds)
        if found is None:
            raise DemoError("the load generator failed")
        if way == "without swaps":
            folder.resume()
            time.sleep(1)
        else:
            swaps += run.status()["swaps"] - before
        ways[way].latencies += found.latencies
        ways[way].failures.update(found.failures)
        logger.info("%s: %s, %d failed", way, found.percentiles(), sum(found.failures.values()))
    return {
        "swaps": swaps,
        **{
            way: {**found.percentiles(), "requests": len(found.latencies), "failed": found.failures}
            for way, found in ways.items()
        },
    }


def under_faults(run: ServingRun, bodies: list[bytes], seconds: float) -> list[dict[str, Any]]:
    """The table of faults."""
    table = []
    for fault in FAULTS:
        before = run.status()
        loop = OpenLoop(run.plan.port, PREDICT, bodies, RATE)
        asking = threading.Thread(target=loop.run, args=(seconds,))
        asking.start()
        time.sleep(BEFORE_FAULT_SECONDS)
        fault.strike(run)
        time.sleep(1)
        after = run.status()
        asking.join()
        row = {
            "fault": fault.name,
            "requests": len(loop.answers.latencies),
            "failed": loop.answers.failures,
            **loop.answers.percentiles(),
            "did": outcome(before, after),
            "at the end": outcome(after, run.status()),
        }
        print(json.dumps(row, ensure_ascii=False), flush=True)
        table.append(row)
    return table


def misses(results: dict[str, Any]) -> list[str]:
    """What does not hold."""
    ratio = results["with swaps"]["p99.9_ms"] / results["without swaps"]["p99.9_ms"]
    results["ratio"] = ratio
    found = [f"p99.9 with swaps is {ratio:.2f} times that without"] if ratio > MOST_RATIO else []
    rows = [results["with swaps"], results["without swaps"], *results.get("faults", [])]
    failed = sum(sum(row["failed"].values()) for row in rows)
    return [*found, f"{failed} requests failed"] if failed else found


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    arguments = parse_args(argv)
    configure_logging()
    flag = StopFlag()
    stop_on_signals(flag)
    minutes = (2 * arguments.seconds * arguments.rounds + 120 * len(FAULTS)) / 60 + 5
    plan = LivePlan(
        work_dir=Path(arguments.work_dir).resolve(),
        rows_per_second=arguments.stream_rate,
        probe_every=0,
        rows=round(arguments.stream_rate * 60 * minutes),
        port=free_port(),
        trainer_flags=(f"--publish_full_every={FULL_EVERY}", "--batch_seconds=1"),
    )
    try:
        with ServingRun(plan, flag) as run:
            lines = plan.stream_path.read_bytes().split(b"\n")[: BODIES * ROWS]
            bodies = bodies_of(lines, ROWS)
            results = with_and_without_swaps(run, bodies, arguments.seconds, arguments.rounds)
            if not arguments.no_faults:
                results["faults"] = under_faults(run, bodies, arguments.fault_seconds)
    except (DemoError, ServiceError, OSError) as error:
        logger.error("%s", error)
        return 1
    missed = misses(results)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(results, indent=2, ensure_ascii=False))
    for miss in missed:
        logger.error("missed: %s", miss)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
