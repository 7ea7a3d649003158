"""Scores the rows of a Criteo file with a checkpoint, without training on them.

    python examples/evaluate.py --ckpt ./ckpt --data day_1.tsv

It prints AUC, log loss, normalised entropy and calibration of all rows. It also prints the share
of out-of-vocabulary values in each categorical column. The features are made by the consumer's own
code, with the ids of a growing vocabulary where the checkpoint has one.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from examples.dictionaries.flags import add_dictionary_flags
from examples.evaluation.errors import EvaluationError
from src.checkpoints.unit import CheckpointError
from src.config import load_config
from src.dictionaries.dictionaries import load_dictionaries
from src.dictionaries.errors import DictionaryError, VocabularyError
from src.process.exit_handlers import keep_modules_until_exit
from src.process.flags import FlagParser, path_flag, path_text_flag
from src.process.logs import configure_logging
from src.process.output import say
from src.rows.bad_rows import add_bad_rows_flag
from src.rows.opened_file import RowFileError

logger = logging.getLogger("evaluate")

EXPECTED_ERRORS = (
    EvaluationError,
    CheckpointError,
    DictionaryError,
    RowFileError,
    VocabularyError,
    OSError,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag(
        "--ckpt",
        type=path_flag,
        required=True,
        help="a .ckpt file, or a folder, whose newest valid one is used",
    )
    flag(
        "--data",
        type=path_text_flag,
        required=True,
        metavar="FILE",
        help="a Criteo file, label first, no header; plain, gzip or zstd; - is standard input",
    )
    add_dictionary_flags(parser)
    flag("--skip_rows", type=int, default=0, help="lines at the beginning to skip (0)")
    flag("--rows", type=int, help="largest number of lines to read (all)")
    add_bad_rows_flag(parser)
    flag(
        "--ckpt_prefix",
        default=load_config([]).ckpt_prefix,
        help="prefix of the checkpoints' names in a folder (%(default)s)",
    )
    arguments = parser.parse_args(argv)
    for name in ("skip_rows", "rows"):
        if (getattr(arguments, name) or 0) < 0:
            parser.error(f"--{name} must not be negative, not {getattr(arguments, name)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Scores a file; returns 0, or 1 after an error, which is logged."""
    arguments = parse_args(argv)
    configure_logging()
    import mindspore as ms  # takes seconds: --help should not

    from examples.evaluation.evaluation import describe, evaluate
    from examples.evaluation.scorer import load_scorer

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    try:
        dictionaries = load_dictionaries(arguments.max_dict, arguments.min_dict, arguments.map_dict)
        scorer = load_scorer(arguments.ckpt, arguments.ckpt_prefix, dictionaries)
        found = evaluate(
            scorer,
            arguments.data,
            arguments.skip_rows,
            arguments.rows,
            arguments.max_bad_fraction,
        )
        say(describe(found))
    except EXPECTED_ERRORS as error:
        logger.error("%s", error)
        return 1
    finally:
        keep_modules_until_exit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
