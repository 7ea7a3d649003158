"""Trains on a stream and serves the model meanwhile, with a page that shows it.

    python -m examples.live
    python -m examples.live --seconds 600 --port 8501

It starts Apache Kafka and the yr engine, and makes rows and dictionaries. It runs consumer.py,
online_train.py and examples/serve.py as processes, and sends rows at a steady rate. Now and then a
row is a probe: its values occur in no other row. The time until an answer has learnt from it is the
model's freshness. The page's address is printed as soon as a model serves. Everything is stopped
at the end, on Ctrl-C, and when a part fails. Logs are in --work_dir.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from itertools import islice
from urllib.parse import quote

from examples.demo.plan import DemoError
from examples.live.freshness import freshness_of
from examples.live.run import LivePlan, LiveRun
from examples.services.common import HOST, ROOT, ServiceError
from src.cluster.topic import TopicError
from src.process.flags import FlagParser, path_flag, port_flag
from src.process.logs import configure_logging
from src.process.ports import free_port
from src.process.stop import StopFlag, stop_on_signals

logger = logging.getLogger("live")

SECONDS = 60
ROWS_PER_SECOND = 500
PROBES_PER_SECOND = 10
SETTLE_SECONDS = 10.0
FAILURES = (DemoError, ServiceError, TopicError, OSError)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        prog="python -m examples.live",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag(
        "--seconds",
        type=int,
        default=SECONDS,
        metavar="N",
        help=f"how long rows are sent ({SECONDS})",
    )
    flag(
        "--rows_per_second",
        type=int,
        default=ROWS_PER_SECOND,
        metavar="N",
        help=f"how many arrive in a second ({ROWS_PER_SECOND})",
    )
    flag("--port", type=port_flag, metavar="PORT", help="port of page and service (a free one)")
    flag(
        "--work_dir",
        type=path_flag,
        default=ROOT / "build" / "serving_demo",
        metavar="DIR",
        help="folder of rows, versions, logs and Kafka's data (build/serving_demo)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> LivePlan:
    """Reads the flags."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    for name in ("seconds", "rows_per_second"):
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be positive, not {getattr(arguments, name)}")
    rate = arguments.rows_per_second
    return LivePlan(
        work_dir=arguments.work_dir.resolve(),
        rows_per_second=rate,
        probe_every=max(rate // PROBES_PER_SECOND, 2),
        rows=arguments.seconds * rate,
        port=arguments.port or free_port(),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns 0, 1 after a failure, 128 + the number of the signal that ended it."""
    configure_logging()
    plan = parse_args(argv)
    flag = StopFlag()
    stop_on_signals(flag)
    try:
        with LiveRun(plan, flag) as run:
            logger.info("waiting for the first steps: the network is compiled")
            run.warm_up()
            logger.info("open %s", page_address(plan))
            run.stream()
            run.settle(SETTLE_SECONDS)
            print(
                f"{run.feed.sent} rows sent, {run.losses.steps} steps trained; "
                f"{freshness_of(run.probes.all).described}; "
                f"requests: {run.client.served} served, {run.client.failed} failed",
                flush=True,
            )
    except FAILURES as error:
        logger.error("%s", error)
        return 1
    if flag.is_set():
        logger.info("stopped by %s", flag.reason)
        return 128 + int(signal.Signals[flag.reason])
    return 0


def page_address(plan: LivePlan) -> str:
    """Where the page is, with a row of the stream for its form."""
    with open(plan.stream_path, encoding="utf-8") as lines:
        line = next(islice(lines, 0, 1)).rstrip("\n")
    row = quote("\t".join(line.split("\t")[1:]))
    return f"http://{HOST}:{plan.port}/#row={row}"


if __name__ == "__main__":
    sys.exit(main())
