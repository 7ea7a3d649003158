"""The whole flow on this machine, from rows to checkpoint, and nothing left running behind it.

    python examples/quickstart.py
    python examples/quickstart.py --data FILE --batch_size 50
    python examples/quickstart.py --ranks 2 --launcher mpirun

It starts Apache Kafka and the yr engine unless they are there, makes a topic, rows and
dictionaries, runs consumer.py, online_train.py and producer.py in processes of their own, shows
the trainer's loss lines, and stops what it started: at its end, on Ctrl-C, and when a part fails.
Without --data the rows are made by examples/make_sample.py. With it the dictionaries come from the
file's first rows and the rest is streamed.

Any other flag goes to online_train.py, whose --help explains it; topic, group and channel are new
ones for each run unless you name them. Checkpoints go to ./ckpt; those
that are there are set aside, those of earlier demos removed. What the parts have to say goes to the
logs in --work_dir.
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

from examples.demo.plan import LAUNCHERS, DemoError, Plan
from examples.demo.rows import DATA_HISTORY_ROWS, SAMPLE_HISTORY_ROWS, SAMPLE_STEPS, prepare
from examples.demo.run import Demo, Interrupted
from examples.dictionaries.criteo_file import DataError
from examples.services.common import ROOT, ServiceError
from src.config import ConfigError, load_config
from src.dictionaries.errors import DictionaryError
from src.process.logs import configure_logging
from src.process.stop import StopFlag, stop_on_signals
from src.stream.topic import TopicError

logger = logging.getLogger("quickstart")

WARM_START_EPOCHS = 1
IDLE_SECONDS = 30.0  # the trainer's end where bad rows leave it short of its steps
FAILURES = (DemoError, ServiceError, TopicError, DataError, DictionaryError, OSError)


def parse_args(argv: Sequence[str] | None = None) -> Plan:
    """Reads the flags.

    Raises:
        ConfigError: online_train.py would refuse one of its flags.
    """
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="quickstart.py [flags] [flags of online_train.py]",
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--data", type=Path, metavar="FILE", help="a Criteo file instead of made rows")
    flag(
        "--history_rows",
        type=int,
        metavar="N",
        help=f"rows the dictionaries are made from ({SAMPLE_HISTORY_ROWS}; with --data "
        f"{DATA_HISTORY_ROWS}, or a third of a shorter file)",
    )
    flag(
        "--warm_start_epochs",
        type=int,
        metavar="N",
        help="passes over these rows to train the model on before the stream (1 with admit_count, "
        "0 without)",
    )
    flag("--rows", type=int, metavar="N", help="rows to stream (with --data: all the rest)")
    flag(
        "--steps",
        type=int,
        metavar="N",
        help=f"steps to train ({SAMPLE_STEPS}; with --data or --rows as many as the rows give)",
    )
    flag("--ranks", type=int, default=1, metavar="N", help="ranks to train on, on this machine (1)")
    flag(
        "--launcher",
        choices=sorted(LAUNCHERS),
        default="network",
        help="what starts several ranks: MindSpore's dynamic networking or MPI (network)",
    )
    flag(
        "--work_dir",
        type=Path,
        default=ROOT / "build" / "demo",
        metavar="DIR",
        help="folder of rows, dictionaries, logs and Kafka's data (build/demo)",
    )
    arguments, others = parser.parse_known_args(argv)
    for name in ("history_rows", "rows", "steps", "ranks"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} must be positive, not {value}")
    run = f"demo_{uuid.uuid4().hex[:8]}"
    trainer_flags = [
        *(f"--topic={run}", f"--group_id={run}", f"--dataset_name={run}"),
        *("--fresh", f"--idle_seconds={IDLE_SECONDS:g}"),
        *(other for other in others if other != "--"),
    ]
    config = load_config(trainer_flags)
    epochs = arguments.warm_start_epochs
    if epochs is None:
        epochs = WARM_START_EPOCHS if config.admit_count and not config.init_ckpt else 0
    elif epochs < 0:
        parser.error(f"--warm_start_epochs must not be negative, not {epochs}")
    steps = arguments.steps or config.max_steps or None
    names = (arguments.data, arguments.history_rows, arguments.rows, steps, epochs)
    launch = (arguments.ranks, arguments.launcher)
    return Plan(*names, *launch, arguments.work_dir.resolve(), trainer_flags, config)


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
        stop_on_signals(flag)  # not earlier: so far there is nothing to stop, and files may be long
        summary = Demo(plan, stream, flag).run()
    except (KeyboardInterrupt, Interrupted) as interrupted:
        name = str(interrupted) or "SIGINT"
        logger.info("stopped by %s", name)
        return 128 + int(signal.Signals[name])
    except FAILURES as error:
        logger.error("%s", error)
        return 1
    print(summary, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
