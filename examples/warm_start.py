r"""Trains a model on the rows of a file, and saves a checkpoint for online_train.py to start with.

    python examples/warm_start.py --data day_0.tsv --config_path examples/adaptive.yaml \
        --ckpt_path ./warm --batch_size 100
    python online_train.py --config_path examples/adaptive.yaml --init_ckpt ./warm/<printed name>

An untrained model scores the first rows of a stream badly. The rows for the dictionaries are there
before the stream begins. One pass over them trains the weights and fills the growing vocabulary.
Neither a broker nor an engine is needed.

Any other flag goes to online_train.py, whose --help explains it. Those of the model, the
vocabulary, the seed, --ckpt_path, --ckpt_prefix and --fresh have an effect here.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from examples.dictionaries.flags import add_dictionary_flags
from src.checkpoints.unit import CheckpointError, Unit
from src.config import Config, ConfigError, load_config
from src.dictionaries.dictionaries import Dictionaries, load_dictionaries
from src.dictionaries.errors import DictionaryError, VocabularyError
from src.dictionaries.growing.growth import Growth
from src.process.exit_handlers import keep_modules_until_exit
from src.process.files import PathLike
from src.process.flags import FlagParser, path_text_flag
from src.process.logs import configure_logging
from src.process.output import say
from src.rows.bad_rows import DEFAULT_MAX_BAD_FRACTION, add_bad_rows_flag
from src.rows.opened_file import RowFileError, can_be_read_again
from src.stream.position import Position

if TYPE_CHECKING:
    from src.checkpoints.store import CheckpointStore
    from src.features.file_batches import FileBatch
    from src.model.networks import TrainNet

logger = logging.getLogger("warm_start")


class WarmStartError(RuntimeError):
    """There is nothing to train on; the message is one line."""


EXPECTED_ERRORS = (
    WarmStartError,
    CheckpointError,
    ConfigError,
    DictionaryError,
    RowFileError,
    VocabularyError,
    OSError,
)


def parse_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Config]:
    """Reads the flags, and the configuration that online_train.py reads from the others.

    Raises:
        ConfigError: online_train.py would refuse one of its flags.
    """
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="warm_start.py --data FILE [flags] [flags of online_train.py]",
    )
    flag = parser.add_argument
    flag(
        "--data",
        type=path_text_flag,
        required=True,
        metavar="FILE",
        help="a Criteo file, label first, no header; plain, gzip or zstd; - is standard input",
    )
    flag("--rows", type=int, help="largest number of lines to read (all)")
    add_bad_rows_flag(parser)
    flag("--epochs", type=int, default=1, help="passes over the rows (1)")
    add_dictionary_flags(parser)
    arguments, others = parser.parse_known_args(argv)
    for name in ("rows", "epochs"):
        if getattr(arguments, name) is not None and getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be positive, not {getattr(arguments, name)}")
    return arguments, load_config(others)


def warm_start(
    config: Config,
    dictionaries: Dictionaries,
    data: PathLike,
    rows: int | None,
    epochs: int,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
) -> Unit:
    """Trains a network and saves it.

    Args:
        config: Model, vocabulary, seed and where the checkpoint goes.
        dictionaries: Map values to ids.
        data: The file.
        rows: Largest number of lines to read, None for all.
        epochs: Passes over the rows.
        max_bad_fraction: See ``BadRowGuard``.

    Returns:
        The checkpoint; its position is empty, as no topic was read.

    Raises:
        WarmStartError: The rows do not fill one batch, the folder holds checkpoints already, or a
            pipe would be read more than once.
        CheckpointError, DictionaryError, RowFileError, VocabularyError, OSError: A file can't
            be used or written.
    """
    from src.checkpoints.store import CheckpointStore  # takes seconds: --help should not
    from src.features.feature_builder import FeatureBuilder
    from src.features.file_batches import batches_of_file
    from src.model.model_config import model_shape
    from src.model.networks import GetWideDeepNet
    from src.trainer.trainer import growth_of

    if epochs > 1 and not can_be_read_again(data):
        raise WarmStartError(
            f"--epochs={epochs} reads the rows more than once, and {data} can be read only once: "
            "write them to a file first"
        )
    store = CheckpointStore(
        Path(config.ckpt_path), config.ckpt_prefix, keep_max=config.keep_checkpoint_max
    )
    store.lock()  # a trainer may be using it, and its checkpoints are of later steps
    with contextlib.ExitStack() as closing:
        closing.callback(store.unlock)
        _make_room(store, config)
        features = FeatureBuilder(dictionaries, config.dense_transform, config.vocab_size)
        network, _ = GetWideDeepNet(config)
        network.set_train()
        growth = growth_of(config, None)
        steps = 0
        for epoch in range(epochs):
            batches = batches_of_file(
                data,
                features,
                config.batch_size,
                growth,
                limit=rows,
                with_keys=config.cross_bits > 0,
                max_bad_fraction=max_bad_fraction,
            )
            steps += _train(network, batches, growth, f"epoch {epoch + 1}")
        if not steps:
            raise WarmStartError(f"{data} has no {config.batch_size} good rows for a batch")
        return store.save(
            network,
            steps,
            Position({}),
            "",
            features.fingerprint,
            model_shape(config),
            vocabulary=growth.dump() if growth is not None else b"",
        )


def _make_room(store: CheckpointStore, config: Config) -> None:
    """Sets checkpoints aside if that is wanted.

    Raises:
        WarmStartError: There are some, and it is not.
    """
    if config.fresh:
        store.set_aside()
    found = store.newest()
    if found is not None:
        raise WarmStartError(
            f"{config.ckpt_path} holds checkpoints already, such as {found.path.name}: "
            "--ckpt_path names another folder, --fresh sets them aside"
        )


def _train(
    network: TrainNet, batches: Iterable[FileBatch], growth: Growth | None, name: str
) -> int:
    """One pass over the rows; returns the steps."""
    import mindspore as ms

    from src.model.row_reset import RowReset

    reset = RowReset(network.row_state())
    steps = 0
    with tqdm(desc=name, unit=" rows", disable=None) as progress:
        for batch in batches:
            losses = network(*map(ms.Tensor, batch.inputs))
            if growth is not None and batch.change is not None:
                growth.follow(batch.change, reset)
            steps += 1
            progress.update(len(batch.labels))
            if steps % 10 == 0:
                progress.set_postfix(wide_loss=float(losses[0].asnumpy()))
    return steps


def main(argv: Sequence[str] | None = None) -> int:
    """Trains on a file; returns 0, or 1 after an error, which is logged."""
    configure_logging()
    try:
        arguments, config = parse_args(argv)
        import mindspore as ms  # takes seconds

        from src.model.device import choose_device

        ms.set_context(mode=ms.GRAPH_MODE, device_target=choose_device(config.device_target))
        dictionaries = load_dictionaries(
            arguments.max_dict, arguments.min_dict, arguments.map_dict, config.vocab_size
        )
        unit = warm_start(
            config,
            dictionaries,
            arguments.data,
            arguments.rows,
            arguments.epochs,
            arguments.max_bad_fraction,
        )
        logger.info("trained %d steps", unit.step)
        say(str(unit.path))
    except EXPECTED_ERRORS as error:
        logger.error("%s", error)
        return 1
    finally:
        keep_modules_until_exit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
