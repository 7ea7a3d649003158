"""Writes a dictionary with the values that a growing vocabulary learnt from the stream.

    python examples/export_vocabulary.py --ckpt ./ckpt --map_dict cat2id_dict.pkl --output grown.pkl

The new file holds every id of --map_dict. It also holds the ids that the checkpoint has for values
which --map_dict lacks. It is an ordinary dictionary: a consumer without a growing vocabulary can
load it, and so can a server of the model.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.checkpoints.unit import CheckpointError, newest_unit, read_unit
from src.config import load_config
from src.dictionaries.dictionaries import load_ids
from src.dictionaries.errors import DictionaryError, VocabularyError
from src.dictionaries.growing.vocabulary import GrowthSettings, Vocabulary
from src.process.exit_handlers import keep_modules_until_exit
from src.process.files import atomic_write_bytes
from src.process.flags import FlagParser, path_flag, path_text_flag
from src.process.logs import configure_logging

logger = logging.getLogger("export_vocabulary")

EXPECTED_ERRORS = (CheckpointError, DictionaryError, VocabularyError, OSError)


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
        "--map_dict",
        type=path_text_flag,
        default="./cat2id_dict.pkl",
        help="ids of columns and categorical values",
    )
    flag("--output", type=path_flag, required=True, help="the file to write")
    flag(
        "--ckpt_prefix",
        default=load_config([]).ckpt_prefix,
        help="prefix of the checkpoints' names in a folder (%(default)s)",
    )
    return parser.parse_args(argv)


def load_vocabulary(ckpt: Path, prefix: str) -> Vocabulary:
    """The vocabulary of a checkpoint.

    Args:
        ckpt: A .ckpt file with its manifest beside it, or a folder of units.
        prefix: Prefix of the units' names in a folder.

    Raises:
        CheckpointError: There is no such checkpoint.
        VocabularyError: It was trained without a growing vocabulary.
    """
    from src.checkpoints.parts import read_vocabulary  # MindSpore takes seconds: --help should not

    unit = newest_unit(ckpt, prefix) if ckpt.is_dir() else read_unit(ckpt)
    if unit is None:
        raise CheckpointError(f"there is no valid checkpoint {prefix}-1_... in {ckpt}")
    saved = read_vocabulary(unit)
    if saved is None:
        raise VocabularyError(f"{unit.path} has no vocabulary: it was trained without admit_count")
    return Vocabulary.load(saved, GrowthSettings(admit_count=1, expire_rows=1))


def joined(ids: Mapping[str, int], vocabulary: Vocabulary) -> dict[str, int]:
    """All ids of a dictionary and of a vocabulary that has grown beside it.

    Raises:
        VocabularyError: The vocabulary has grown beside another dictionary.
    """
    first = max(ids.values()) + 1
    if first != vocabulary.free_ids[0]:
        raise VocabularyError(
            f"the dictionary's ids end with {first - 1}, those of the checkpoint's vocabulary "
            f"begin with {vocabulary.free_ids[0]}: it has grown beside another dictionary"
        )
    return {**ids, **dict(vocabulary.items())}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the dictionary; returns 0, or 1 after an error, which is logged."""
    arguments = parse_args(argv)
    configure_logging()
    try:
        vocabulary = load_vocabulary(arguments.ckpt, arguments.ckpt_prefix)
        ids = joined(load_ids(arguments.map_dict), vocabulary)
        atomic_write_bytes(arguments.output, pickle.dumps(ids, protocol=4))
    except EXPECTED_ERRORS as error:
        logger.error("%s", error)
        return 1
    finally:
        keep_modules_until_exit()
    logger.info("%s: %d ids, %d of them grown", arguments.output, len(ids), len(vocabulary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
