"""A network with the weights of a published version, as MindIR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
import numpy as np

from src.model.crosses import CrossLearner
from src.model.model_config import config_to_predict
from src.model.networks import PredictNet, predict_net
from src.model.wide_and_deep import WideDeepModel
from src.process.arrays import Array
from src.publishing.chain import read_current
from src.publishing.folder import VersionFolder
from src.publishing.rebuild import rebuild
from src.publishing.version_format import Manifest, PublishingError, read_manifest

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
