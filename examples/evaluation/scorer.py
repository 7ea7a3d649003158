"""The model of a checkpoint, with all that it needs to score rows."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms

from examples.evaluation.errors import EvaluationError
from src.checkpoints.parts import VOCABULARY, load, load_file
from src.checkpoints.unit import Unit, manifest_path_of, newest_unit, read_unit
from src.dictionaries.dictionaries import Dictionaries
from src.dictionaries.growing.vocabulary import GrowthSettings, Vocabulary
from src.features.feature_builder import FeatureBuilder
from src.model.crosses import CrossLearner, PredictWithCrosses
from src.model.model_config import ModelConfig, config_to_predict
from src.model.networks import PredictNet, predict_net
from src.model.wide_and_deep import WideDeepModel
from src.process.arrays import Array
from src.rows.criteo import FIELD_SIZE, ParsedRows
from src.rows.row_file import BLOCK_ROWS

logger = logging.getLogger("evaluate")

LAYER = re.compile(r"deep\.(\d+)\.weight")


@dataclass(frozen=True)
class Scorer:
    """Scores rows with the model of a checkpoint.

    Attributes:
        network: Scores rows; it ignores their labels.
        features: Makes ids and weights as the consumer made them for the model.
        vocabulary: The ids of values that the dictionaries lack; None where the vocabulary does
            not grow.
    """

    network: PredictNet
    features: FeatureBuilder
    vocabulary: Vocabulary | None

    def inputs(self, rows: ParsedRows) -> tuple[tuple[Array, ...], Array]:
        """What the network takes of rows (ids, weights, labels, perhaps keys), and their oov."""
        ids, weights = self.features.build(rows)
        oov = self.features.oov(ids)
        if self.vocabulary is not None:
            values = self.features.unknown(rows, ids).values
            ids, oov = self.vocabulary.look_up(ids, oov, values)
        batch = (ids, weights, rows.label.reshape(-1, 1))
        if isinstance(self.network, PredictWithCrosses):
            return (*batch, self.features.keys(rows)), oov
        return batch, oov


def load_scorer(ckpt: Path, prefix: str, dictionaries: Dictionaries) -> Scorer:
    """The scorer of a checkpoint; the model's shape is taken from the weights.

    Args:
        ckpt: A .ckpt file, with its manifest beside it or without, or a folder of units.
        prefix: Prefix of the units' names in a folder.
        dictionaries: Map values to ids.

    Raises:
        EvaluationError, CheckpointError: There is none, or it is of other dictionaries.
        DictionaryError, VocabularyError: The dictionaries or the vocabulary don't fit it.
    """
    unit = _find_unit(ckpt, prefix)
    path = unit.path if unit is not None else ckpt
    described = unit.model if unit is not None else {}
    saved = load(unit) if unit is not None else load_file(path)
    model = WideDeepModel(_config_of(path, saved, described))
    vocab_size = model.config.vocab_size
    if dictionaries.vocab_size_needed > vocab_size:
        raise EvaluationError(
            f"the dictionaries need {dictionaries.vocab_size_needed} ids, {path} has {vocab_size}"
        )
    transform = str(described.get("dense_transform", "minmax"))
    features = FeatureBuilder(dictionaries, transform, vocab_size)
    if unit is not None and unit.dictionaries != features.fingerprint:
        raise EvaluationError(
            f"{path} was trained with dictionaries of fingerprint {unit.dictionaries:016x}, "
            f"these have {features.fingerprint:016x}"
        )
    config = model.config
    network = predict_net(model, CrossLearner(config) if config.cross_bits else None)
    network.set_train(False)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(saved[parameter.name]))
    logger.info("model of %s", path)
    return Scorer(network, features, _vocabulary(saved))


def _vocabulary(saved: Mapping[str, Any]) -> Vocabulary | None:
    if VOCABULARY not in saved:
        return None
    # Values are only looked up, so the settings for growth do not matter.
    return Vocabulary.load(saved[VOCABULARY].tobytes(), GrowthSettings(1, 1))


def _find_unit(ckpt: Path, prefix: str) -> Unit | None:
    """The unit of a path; None for a .ckpt file without a manifest."""
    if ckpt.is_dir():
        # Not CheckpointStore.newest: that removes the files that a running trainer may be writing.
        unit = newest_unit(ckpt, prefix)
        if unit is None:
            raise EvaluationError(f"there is no valid checkpoint {prefix}-1_... in {ckpt}")
        return unit
    if not ckpt.is_file():
        raise EvaluationError(f"{ckpt}: there is no such file")
    if not manifest_path_of(ckpt).exists():
        logger.warning("%s has no manifest beside it: not checked, activation relu assumed", ckpt)
        return None
    return read_unit(ckpt)


def _config_of(path: Path, saved: Mapping[str, Any], model: Mapping[str, Any]) -> ModelConfig:
    try:
        vocab_size, emb_dim = saved["embedding_table"].shape
        layers = sorted(int(match[1]) for match in map(LAYER.fullmatch, saved) if match)
        widths = [saved[f"deep.{layer}.weight"].shape[0] for layer in layers]
        inputs = saved["deep.0.weight"].shape[1]
        cross_weights = saved["cross_weight"].shape[0] if "cross_weight" in saved else 0
    except KeyError as error:
        raise EvaluationError(f"{path} is no Wide&Deep checkpoint: it lacks {error}") from None
    return config_to_predict(
        batch_size=BLOCK_ROWS,
        field_size=FIELD_SIZE,
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        deep_layer_dim=widths[:-1],
        deep_layer_act=str(model.get("deep_layer_act", "relu")),
        deep_pairs=inputs > FIELD_SIZE * emb_dim,
        cross_bits=cross_weights.bit_length() - 1 if cross_weights else 0,
        cross_fields=str(model.get("cross_fields", "")),
    )
