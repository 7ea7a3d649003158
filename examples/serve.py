"""Scores rows over HTTP with the newest version that a trainer has published.

    python online_train.py ... --publish_path ./published
    python examples/serve.py --model ./published

It follows the folder: about a second after the trainer has learnt a row, scores change. Clients
speak the Open Inference Protocol (/v2) or TensorFlow Serving's REST dialect (/v1). Numbers for
Prometheus are at /metrics. See docs/serving.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.process.flags import FlagParser, number_flag, path_flag
from src.process.logs import configure_logging
from src.process.stop import StopFlag, stop_on_signals

logger = logging.getLogger("serve")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag("--model", type=path_flag, required=True, help="folder of the published versions")
    flag("--model_name", default="widedeep", help="name of the model in URLs (%(default)s)")
    flag(
        "--host",
        default="127.0.0.1",
        help="address to listen on, without a password; 0.0.0.0 for all (%(default)s)",
    )
    flag("--port", type=int, default=8501, help="port to listen on; 0 for any (%(default)s)")
    flag(
        "--max_age_seconds",
        type=number_flag,
        default=0.0,
        help="the model is not ready if its newest row is older; 0 for no limit (%(default)s)",
    )
    flag(
        "--max_body_bytes",
        type=int,
        default=8 << 20,
        help="largest body of a request, also when decompressed (%(default)s)",
    )
    flag("--max_rows", type=int, default=10_000, help="most rows in a request (%(default)s)")
    flag(
        "--max_waiting",
        type=int,
        default=128,
        help="most requests that are scored or wait; others get status 429 (%(default)s)",
    )
    flag(
        "--take_over",
        action="store_true",
        help="serve beside a server on the same port, for a restart without a gap: stop it then",
    )
    arguments = parser.parse_args(argv)
    for name in ("max_body_bytes", "max_rows", "max_waiting"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if arguments.max_age_seconds < 0 or not 0 <= arguments.port < 1 << 16:
        parser.error("--max_age_seconds must not be below 0, --port must be in 0..65535")
    if not arguments.model_name or set("/:%?#") & set(arguments.model_name):
        parser.error("--model_name must not be empty, nor hold any of / : % ? #")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is stopped; returns 0, or 1 after an error, which is logged."""
    arguments = parse_args(argv)
    configure_logging()
    flag = StopFlag()
    stop_on_signals(flag)
    # A product of matrices in several threads waits for its slowest, and a trainer needs the
    # processors too. NumPy reads this when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from src.scoring.web.server import ServeError, serve
    from src.scoring.web.settings import ServeSettings

    settings = ServeSettings(
        directory=arguments.model,
        model_name=arguments.model_name,
        host=arguments.host,
        port=arguments.port,
        max_age_seconds=arguments.max_age_seconds,
        max_body_bytes=arguments.max_body_bytes,
        max_rows=arguments.max_rows,
        max_waiting=arguments.max_waiting,
        take_over=arguments.take_over,
    )
    try:
        serve(settings, flag)
    except ServeError as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
