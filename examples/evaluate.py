"""Scores the rows of a Criteo file with a checkpoint, without training on them.

    python examples/evaluate.py --ckpt ./ckpt --data day_1.tsv

It prints AUC, log loss, normalised entropy and calibration of all rows, and how much of each
categorical column is out of vocabulary. The features are made by the consumer's own code, the ids
that a growing vocabulary has given among them.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mindspore as ms
import numpy as np
from tqdm import tqdm

from src.config import load_config
from src.dictionaries.dictionaries import Dictionaries, DictionaryError, load_dictionaries
from src.dictionaries.oov import count_oov
from src.dictionaries.vocabulary import GrowthSettings, Vocabulary, VocabularyError
from src.features.feature_builder import FeatureBuilder
from src.features.row_file import BLOCK_ROWS, RowFileError, parsed_blocks
from src.model.model_config import ModelConfig
from src.model.wide_and_deep import WideDeepModel
from src.process.arrays import Array
from src.process.exit_handlers import keep_modules_until_exit
from src.process.logs import configure_logging
from src.rows.criteo import CATEGORICAL_COLUMNS, CATEGORICAL_SIZE, FIELD_SIZE, ParsedRows
from src.trainer.checkpoint import VOCABULARY, CheckpointError, Unit, newest_unit, read_unit
from src.watching.metrics import ProgressiveMetrics, Scores

logger = logging.getLogger("evaluate")

LAYER = re.compile(r"deep\.(\d+)\.weight")


class EvaluationError(RuntimeError):
    """The file can't be scored with the checkpoint; one line says why."""


EXPECTED_ERRORS = (
    EvaluationError,
    CheckpointError,
    DictionaryError,
    RowFileError,
    VocabularyError,
    OSError,
)


@dataclass
class Evaluation:
    """What came out.

    Attributes:
        metrics: The scores of the good rows.
        oov: int64[26], rows out of vocabulary by column, the missing ones among them.
        missing: int64[26], rows without a value by column.
        bad_rows: Lines that are no rows.
    """

    metrics: ProgressiveMetrics = field(default_factory=lambda: ProgressiveMetrics(1))
    oov: Array = field(default_factory=lambda: np.zeros(CATEGORICAL_SIZE, dtype=np.int64))
    missing: Array = field(default_factory=lambda: np.zeros(CATEGORICAL_SIZE, dtype=np.int64))
    bad_rows: int = 0

    def scores(self) -> Scores:
        """The scores of all good rows."""
        return self.metrics.life().scores()


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--ckpt", type=Path, required=True, help="a .ckpt file, or a folder: its newest valid one")
    flag("--data", type=Path, required=True, help="a Criteo file, label first, no header")
    flag("--max_dict", default="./all_val_max_dict.pkl", help="largest value of each dense column")
    flag("--min_dict", default="./all_val_min_dict.pkl", help="smallest value of each")
    flag("--map_dict", default="./cat2id_dict.pkl", help="ids of columns and categorical values")
    flag("--skip_rows", type=int, default=0, help="rows at the beginning to leave out (0)")
    flag("--rows", type=int, help="the most rows to score; all unless given")
    flag(
        "--ckpt_prefix",
        default=load_config([]).ckpt_prefix,
        help="how the names of the checkpoints in a folder begin (%(default)s)",
    )
    return parser.parse_args(argv)


# --- the model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scorer:
    """What scores rows.

    Attributes:
        model: Of a checkpoint.
        features: Makes ids and weights as the consumer made them for it.
        vocabulary: The ids that it gave to values that the dictionaries lack; None where it gave
            none.
    """

    model: WideDeepModel
    features: FeatureBuilder
    vocabulary: Optional[Vocabulary]

    def fields(self, rows: ParsedRows) -> tuple[Array, Array, Array]:
        """(ids, weights, oov) of rows."""
        ids, weights = self.features.build(rows)
        oov = self.features.oov(ids)
        if self.vocabulary is not None:
            values = self.features.unknown(rows, ids).values
            ids, oov = self.vocabulary.look_up(ids, oov, values)
        return ids, weights, oov


def load_scorer(ckpt: Path, prefix: str, dictionaries: Dictionaries) -> Scorer:
    """The model of a checkpoint, whose shape is that of the weights, and what its rows look like.

    Args:
        ckpt: A .ckpt file, with its manifest beside it or without, or a folder of units.
        prefix: How the names of the units in a folder begin.
        dictionaries: What the rows' ids will be made with.

    Raises:
        EvaluationError, CheckpointError: There is none, or it is of other dictionaries.
        DictionaryError, VocabularyError: The dictionaries or the vocabulary don't fit it.
    """
    unit = _find_unit(ckpt, prefix)
    path = unit.path if unit is not None else ckpt
    told = unit.model if unit is not None else {}
    try:
        saved = ms.load_checkpoint(str(path))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    model = WideDeepModel(_config_of(path, saved, told))
    vocab_size = model.config.vocab_size
    if dictionaries.vocab_size_needed > vocab_size:
        raise EvaluationError(
            f"the dictionaries need {dictionaries.vocab_size_needed} ids, {path} has {vocab_size}"
        )
    transform = str(told.get("dense_transform", "minmax"))
    features = FeatureBuilder(dictionaries, transform, vocab_size)
    if unit is not None and unit.dictionaries != features.fingerprint:
        raise EvaluationError(
            f"{path} was trained with dictionaries of fingerprint {unit.dictionaries:016x}, "
            f"these have {features.fingerprint:016x}"
        )
    model.set_train(False)
    for parameter in model.get_parameters():
        parameter.set_data(saved[parameter.name].data)
    logger.info("model of %s", path)
    return Scorer(model, features, _vocabulary(saved))


def _vocabulary(saved: Mapping[str, Any]) -> Optional[Vocabulary]:
    if VOCABULARY not in saved:
        return None
    # It is looked up only: how it would grow is of no account.
    return Vocabulary.load(saved[VOCABULARY].asnumpy().tobytes(), GrowthSettings(1, 1))


def _find_unit(ckpt: Path, prefix: str) -> Optional[Unit]:
    """The unit meant; None for a .ckpt file without a manifest."""
    if ckpt.is_dir():
        # Not the store's own: that clears away what a running trainer may be writing.
        unit = newest_unit(ckpt, prefix)
        if unit is None:
            raise EvaluationError(f"there is no valid checkpoint {prefix}-1_... in {ckpt}")
        return unit
    if not ckpt.is_file():
        raise EvaluationError(f"{ckpt}: there is no such file")
    if not ckpt.with_suffix(".json").exists():
        logger.warning("%s has no manifest beside it: not checked, activation relu assumed", ckpt)
        return None
    return read_unit(ckpt)


def _config_of(path: Path, saved: Mapping[str, Any], model: Mapping[str, Any]) -> ModelConfig:
    try:
        vocab_size, emb_dim = saved["embedding_table"].shape
        layers = sorted(int(match[1]) for match in map(LAYER.fullmatch, saved) if match)
        widths = [saved[f"deep.{layer}.weight"].shape[0] for layer in layers]
    except KeyError as error:
        raise EvaluationError(f"{path} is no Wide&Deep checkpoint: it lacks {error}") from None
    return ModelConfig(
        batch_size=BLOCK_ROWS,
        field_size=FIELD_SIZE,
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        deep_layer_dim=widths[:-1],
        deep_layer_act=str(model.get("deep_layer_act", "relu")),
        emb_init="zeros",
        weight_bias_init="zeros",
        l2_coef=0.0,
        keep_prob=1.0,
        dropout_flag=False,
        use_mixed_precision=False,
        sparse=False,
        wide_init="zeros",
        wide_learning_rate=1.0,
        wide_initial_accumulator=1.0,
        deep_learning_rate=1.0,
        table_optimizer="adam",
        table_learning_rate=1.0,
    )


# --- the rows ------------------------------------------------------------------------------------


def evaluate(scorer: Scorer, data: Path, skip: int, limit: Optional[int]) -> Evaluation:
    """Scores the rows of a file.

    Args:
        scorer: Scores them.
        data: The file.
        skip: Lines at its beginning to leave out.
        limit: The most lines to read, None for all.

    Raises:
        RowFileError: The file has a header.
        OSError: It can't be read.
    """
    found = Evaluation()
    with tqdm(desc="scored", unit=" rows", disable=None) as progress:
        for lines, parsed in parsed_blocks(data, skip, limit):
            found.bad_rows += len(parsed.bad)
            if len(parsed.label):
                ids, weights, oov = scorer.fields(parsed)
                found.metrics.add(_logits(scorer.model, ids, weights), parsed.label)
                found.oov += count_oov(oov)
                found.missing += np.count_nonzero(parsed.codes < 0, axis=0)
            progress.update(lines)
    return found


def _logits(model: WideDeepModel, ids: Array, weights: Array) -> Array:
    """float32[rows, 1]; short batches are filled up, for a graph is compiled for each shape."""
    missing = ((0, BLOCK_ROWS - len(ids)), (0, 0))
    logit = model(*(ms.Tensor(np.pad(values, missing)) for values in (ids, weights)))
    found: Array = logit.asnumpy()[: len(ids)]
    return found


def describe(found: Evaluation) -> str:
    """The result as a text of several lines."""
    scores = found.scores()
    rows = max(scores.rows, 1)
    lines = [f"rows                {scores.rows}", f"bad rows            {found.bad_rows}"]
    for name, value in (
        ("click rate", scores.clicks / rows),
        ("AUC", scores.auc),
        ("log loss", scores.log_loss),
        ("normalised entropy", scores.normalised_entropy),
        ("calibration", scores.calibration),
        ("out of vocabulary", found.oov.mean() / rows),
    ):
        lines.append(f"{name:<20}{'?' if value is None else f'{value:.6f}'}")
    lines.append("column  out of vocabulary  of these missing")
    for column, oov, missing in zip(CATEGORICAL_COLUMNS, found.oov, found.missing):
        lines.append(f"{column:<6}{oov / rows:>18.4f}{missing / rows:>19.4f}")
    return "\n".join(lines)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Scores a file; returns 0, or 1 after an error, which is logged."""
    arguments = parse_args(argv)
    configure_logging()
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    try:
        dictionaries = load_dictionaries(arguments.max_dict, arguments.min_dict, arguments.map_dict)
        scorer = load_scorer(arguments.ckpt, arguments.ckpt_prefix, dictionaries)
        found = evaluate(scorer, arguments.data, arguments.skip_rows, arguments.rows)
    except EXPECTED_ERRORS as error:
        logger.error("%s", error)
        return 1
    finally:
        keep_modules_until_exit()
    print(describe(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
