"""Measures every stage against the documented way and compares the ratios with the targets.

    python -m benchmarks
    python -m benchmarks --stages features feed --repeats 9

Each stage runs in a process of its own. In it the ways alternate, and the median round counts. The
exit code is 0 when the targets of all stages that ran hold. benchmarks/README.md explains how each
number is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import shutil
import sys
import time
from collections.abc import Sequence

from benchmarks.learning.linear_learner import vowpal_wabbit_python
from benchmarks.learning.rows import LearningError
from benchmarks.peers.environment import PeerError, pytorch_python
from benchmarks.report import Result, machine, missed, table, write_json
from benchmarks.settings import Settings
from benchmarks.stages.registry import STAGES, run_in_process
from examples.services.common import ROOT, ServiceError
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.process.ports import free_port

logger = logging.getLogger("benchmarks")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        prog="python -m benchmarks",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = Settings()
    flag = parser.add_argument
    flag("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="stages to run (all)")
    for name, values, what in (
        ("--window", defaults.windows, "window; features takes all, other stages the first"),
        ("--batch", defaults.batches, "batch; feed takes all, other stages the first"),
    ):
        shown = " ".join(map(str, values))
        flag(name, nargs="+", type=int, default=list(values), help=f"rows per {what} ({shown})")
    flag("--rows", type=int, default=defaults.rows, help="rows per round (%(default)s)")
    flag("--repeats", type=int, default=defaults.repeats, help="rounds that count (%(default)s)")
    flag(
        "--json",
        type=path_flag,
        default=ROOT / "build" / "bench.json",
        help="file of the results (build/bench.json)",
    )
    flag(
        "--peers",
        action="store_true",
        help="compare training with PyTorch and Vowpal Wabbit too, which are installed into "
        "build/ (some GB)",
    )
    flag("--no_targets", action="store_true", help="exit with 0 even where a target is missed")
    arguments = parser.parse_args(argv)
    for name in ("window", "batch", "rows", "repeats"):
        values = getattr(arguments, name)
        if min(values if isinstance(values, list) else [values]) < 1:
            parser.error(f"--{name} must be positive")
    if arguments.rows < max(*arguments.window, *arguments.batch):
        parser.error("--rows must be at least the largest window and batch")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the stages; returns the exit code."""
    arguments = parse_args(argv)
    configure_logging()
    described = machine()
    settings = Settings(
        tuple(arguments.window), tuple(arguments.batch), arguments.rows, arguments.repeats
    )
    try:
        if arguments.peers:
            settings = with_peers(arguments.stages, settings)
        results, failed = run_stages(arguments.stages, settings)
    except (ServiceError, PeerError, LearningError) as error:
        logger.error("%s", error)
        return 1
    write_json(arguments.json, results, described)
    print("\n".join(f"{name}: {value}" for name, value in described.items()), end="\n\n")
    print(table(results))
    phrases = [f"{name}: it failed" for name in failed]
    phrases += [] if arguments.no_targets else missed(results)
    for phrase in phrases:
        print(f"missed: {phrase}")
    return 1 if phrases else 0


def with_peers(names: Sequence[str], settings: Settings) -> Settings:
    """The settings with the peers that the stages can compare with, which are installed if needed.

    Raises:
        PeerError, LearningError: One can't be installed.
    """
    stages = [STAGES[name] for name in names]
    if any(stage.vowpal_wabbit for stage in stages):
        settings = dataclasses.replace(settings, vowpal_wabbit=vowpal_wabbit_python())
    if any(stage.pytorch for stage in stages):
        settings = dataclasses.replace(settings, pytorch=pytorch_python())
    return settings


def run_stages(names: Sequence[str], settings: Settings) -> tuple[list[Result], list[str]]:
    """Runs each stage in a process of its own, with the services they need.

    Returns:
        The results, and the names of the stages that failed.

    Raises:
        ServiceError: A service can't be started.
    """
    stages = [STAGES[name] for name in names]
    results: list[Result] = []
    failed: list[str] = []
    with contextlib.ExitStack() as stack:
        if any(stage.kafka for stage in stages):
            folder = settings.work_dir / "kafka"
            shutil.rmtree(folder, ignore_errors=True)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            kafka = stack.enter_context(KafkaService(folder, free_port()))
            settings = dataclasses.replace(settings, bootstrap_servers=kafka.bootstrap_servers)
        if any(stage.engine for stage in stages):
            stack.enter_context(EngineService(settings.address))
        for number, name in enumerate(names, start=1):
            logger.info("stage %d of %d: %s", number, len(names), name)
            began = time.monotonic()
            measured = run_in_process(name, settings)
            results += measured
            failed += [] if measured else [name]
            logger.info("%s took %.0f s", name, time.monotonic() - began)
    return results, failed


if __name__ == "__main__":
    sys.exit(main())
