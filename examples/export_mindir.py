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
from collections.abc import Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mindspore as ms
import numpy as np

from src.model.crosses import CrossLearner
from src.model.model_config import config_to_predict
from src.model.networks import PredictNet, predict_net
from src.model.wide_and_deep import WideDeepModel
from src.process.arrays import Array
from src.process.exit_handlers import keep_modules_until_exit
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.publishing.chain import read_current
from src.publishing.folder import VersionFolder
from src.publishing.rebuild import rebuild
from src.publishing.version_format import Manifest, PublishingError, read_manifest

logger = logging.getLogger("export_mindir")

SUFFIX = ".mindir"
MODEL_KEYS = (
    "field_size",
    "vocab_size",
    "emb_dim",
    "deep_layer_dim",
    "deep_layer_act",
    "deep_pairs",
    "cross_bits",
    "cross_fields",
)


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


def load_version(directory: Path, wanted: str) -> tuple[Manifest, Mapping[str, Array]]:
    """A version and its arrays.

    Args:
        directory: The folder of versions.
        wanted: The version's step, or the name of its folder; "" for what is served now.

    Raises:
        PublishingError: There is none, or it can't be read.
    """
    chain = VersionFolder(directory).chain_to(wanted) if wanted else read_current(directory)
    if chain is None:
        raise PublishingError(f"nothing is published in {directory}")
    return read_manifest(directory / chain.names[-1]), rebuild(directory, chain.names).arrays


def network_of(manifest: Manifest, arrays: Mapping[str, Array], rows: int) -> PredictNet:
    """The network of a version, which scores so many rows at once.

    Raises:
        PublishingError: The version is of another model than it says.
    """
    described = manifest.model
    try:
        config = config_to_predict(rows, **{key: described[key] for key in MODEL_KEYS})
        crosses = CrossLearner(config) if config.cross_bits else None
        network = predict_net(WideDeepModel(config), crosses)
        network.set_train(False)
        for parameter in network.get_parameters():
            if parameter.name in arrays:
                parameter.set_data(ms.Tensor(arrays[parameter.name]))
            elif parameter.name != "cross_accumulator":  # no score depends on it
                raise PublishingError(f"version {manifest.name} lacks {parameter.name}")
    except (KeyError, ValueError, TypeError) as error:
        raise PublishingError(f"version {manifest.name} describes no model: {error}") from None
    return network


def export(network: PredictNet, rows: int, with_keys: bool, output: Path) -> None:
    """Writes a network as MindIR.

    Raises:
        PublishingError: The file can't be written.
    """
    fields = network.network.config.field_size
    inputs = [
        ms.Tensor(np.zeros((rows, fields), np.int32)),
        ms.Tensor(np.zeros((rows, fields), np.float32)),
        ms.Tensor(np.zeros((rows, 1), np.float32)),
    ]
    if with_keys:
        inputs.append(ms.Tensor(np.zeros((rows, fields), np.int32)))
    try:
        ms.export(network, *inputs, file_name=str(output), file_format="MINDIR")
    except (OSError, RuntimeError) as error:
        raise PublishingError(f"can't write {output}: {error}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file; returns 0, or 1 after an error, which is logged."""
    arguments = parse_args(argv)
    configure_logging()
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
