"""Runs the whole flow on this machine, from rows to checkpoint, and stops what it started.

    python examples/quickstart.py
    python examples/quickstart.py --data FILE --batch_size 50
    python examples/quickstart.py --ranks 2 --launcher mpirun

It starts Apache Kafka and the yr engine unless they run already. It makes a topic, rows and
dictionaries. It runs consumer.py, online_train.py and producer.py as processes and shows the
trainer's loss lines. It stops what it started at the end, on Ctrl-C, and when a part fails. Without
--data the rows are made by examples/make_sample.py. With --data the dictionaries are made from the
file's first rows, and the other rows are streamed.

Any other flag goes to online_train.py, whose --help explains it. Topic, group and channel are new
for each run unless you name them. Checkpoints go to ./ckpt. Earlier checkpoints there are set
aside, and those of earlier demos are removed. Each script writes its log to --work_dir.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.demo.next_steps import next_steps
from examples.demo.plan import LAUNCHERS, DemoError, Plan
from examples.demo.rows import DATA_HISTORY_ROWS, SAMPLE_HISTORY_ROWS, SAMPLE_STEPS, prepare
from examples.demo.run import Demo, Interrupted
from examples.services.common import ROOT, ServiceError
from src.cluster.settings import client_settings
from src.cluster.topic import TopicError
from src.config import ConfigError, load_config
from src.dictionaries.errors import DictionaryError
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.process.output import say
from src.process.stop import StopFlag, stop_on_signals
from src.rows.opened_file import RowFileError

logger = logging.getLogger("quickstart")

WARM_START_EPOCHS = 1
IDLE_SECONDS = 30.0  # ends a trainer whose steps are never reached because of bad rows
FAILURES = (DemoError, ServiceError, TopicError, RowFileError, DictionaryError, OSError)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the script's own flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="quickstart.py [flags] [flags of online_train.py]",
    )
    flag = parser.add_argument
    flag("--data", type=path_flag, metavar="FILE", help="a Criteo file instead of made rows")
    flag(
        "--history_rows",
        type=int,
        metavar="N",
        help=f"rows from which the dictionaries are made ({SAMPLE_HISTORY_ROWS}; with --data "
        f"{DATA_HISTORY_ROWS}, or a third of a shorter file)",
    )
    flag(
        "--warm_start_epochs",
        type=int,
        metavar="N",
        help="passes over these rows that train the model before the stream (1 with admit_count, "
        "else 0)",
    )
    flag("--rows", type=int, metavar="N", help="rows to stream (with --data: all other rows)")
    flag(
        "--steps",
        type=int,
        metavar="N",
        help=f"steps to train ({SAMPLE_STEPS}; with --data or --rows as many as the rows allow)",
    )
    flag("--ranks", type=int, default=1, metavar="N", help="ranks to train on, on this machine (1)")
    flag(
        "--launcher",
        choices=sorted(LAUNCHERS),
        default="network",
        help="how several ranks are started: MindSpore's dynamic networking, or MPI (network)",
    )
    flag(
        "--work_dir",
        type=path_flag,
        default=ROOT / "build" / "demo",
        metavar="DIR",
        help="folder of rows, dictionaries, logs and Kafka's data (build/demo)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> Plan:
    """Reads the flags.

    Raises:
        ConfigError: online_train.py would refuse one of its flags.
    """
    parser = make_parser()
    arguments, others = parser.parse_known_args(argv)
    for name in ("history_rows", "rows", "steps", "ranks"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} must be positive, not {value}")
    run = f"demo_{uuid.uuid4().hex[:8]}"
    trainer_flags = [
        f"--topic={run}",
        f"--group_id={run}",
        f"--dataset_name={run}",
        "--fresh",
        f"--idle_seconds={IDLE_SECONDS:g}",
        "--batch_seconds=0",  # the run ends after so many steps, which must be of full batches
    ]
    trainer_flags += [other for other in others if other != "--"]
    config = load_config(trainer_flags)
    epochs = arguments.warm_start_epochs
    if epochs is None:
        epochs = WARM_START_EPOCHS if config.admit_count and not config.init_ckpt else 0
    elif epochs < 0:
        parser.error(f"--warm_start_epochs must not be negative, not {epochs}")
    steps = arguments.steps or config.max_steps or None
    return Plan(
        data=arguments.data,
        history_rows=arguments.history_rows,
        rows=arguments.rows,
        steps=steps,
        warm_start_epochs=epochs,
        ranks=arguments.ranks,
        launcher=arguments.launcher,
        work_dir=arguments.work_dir.resolve(),
        trainer_flags=trainer_flags,
        config=config,
        cluster=client_settings(config.bootstrap_servers, config.kafka_config),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns 0, 1 after a failure, 128 + the number of the signal that ended it."""
    configure_logging()
    try:
        plan = parse_args(argv)
    except ConfigError as error:
        logger.error("%s", error)
        return 2
    try:
        stream = prepare(plan)
        flag = StopFlag()
        stop_on_signals(
            flag
        )  # not earlier: there was nothing to stop yet, and reading a long file must end on Ctrl-C
        summary = Demo(plan, stream, flag).run()
        say(summary, *next_steps(plan.config))
    except (KeyboardInterrupt, Interrupted) as interrupted:
        name = str(interrupted) or "SIGINT"
        logger.info("stopped by %s", name)
        return 128 + int(signal.Signals[name])
    except FAILURES as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
