"""Makes a MindIR file of a published version, for those who serve with MindSpore.

    python examples/export_mindir.py --publish_path versions --version 4200 --output model.mindir

The file holds PredictWithSigmoid with the version's weights. It takes id int32[rows, 39], weight
float32[rows, 39] and label float32[rows, 1], and where the model learns crosses also key
int32[rows, 39]. It returns logit, probability and label, float32[rows, 1] each. A label is not
looked at. MindIR has fixed shapes: --rows says how many rows are scored in one call.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.process.exit_handlers import keep_modules_until_exit
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging

logger = logging.getLogger("export_mindir")

SUFFIX = ".mindir"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag("--publish_path", type=path_flag, required=True, help="folder of the versions")
    flag(
        "--version", default="", help="the version, or the name of its folder (what is served now)"
    )
    flag("--output", type=path_flag, required=True, help=f"the file to write, *{SUFFIX}")
    flag("--rows", type=int, default=100, help="rows to score in one call (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.rows < 1:
        parser.error(f"--rows must be positive, not {arguments.rows}")
    if arguments.output.suffix != SUFFIX:
        parser.error(f"--output must end in {SUFFIX}, not {arguments.output}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file; returns 0, or 1 after an error, which is logged."""
    arguments = parse_args(argv)
    configure_logging()
    import mindspore as ms  # takes seconds to import: --help should not

    from examples.evaluation.mindir import export, load_version, network_of
    from src.publishing.version_format import PublishingError

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    try:
        manifest, arrays = load_version(arguments.publish_path, arguments.version)
        network = network_of(manifest, arrays, arguments.rows)
        with_keys = bool(manifest.model["cross_bits"])
        export(network, arguments.rows, with_keys, arguments.output)
    except PublishingError as error:
        logger.error("%s", error)
        return 1
    finally:
        keep_modules_until_exit()
    logger.info("%s: version %s, %d rows a call", arguments.output, manifest.name, arguments.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
