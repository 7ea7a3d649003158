"""Scores the rows of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from tqdm import tqdm

from examples.evaluation.errors import EvaluationError
from examples.evaluation.scorer import Scorer
from src.dictionaries.oov import count_oov
from src.model.networks import PredictNet
from src.process.arrays import Array
from src.process.files import PathLike
from src.rows.bad_rows import DEFAULT_MAX_BAD_FRACTION
from src.rows.criteo import CATEGORICAL_COLUMNS, CATEGORICAL_SIZE
from src.rows.row_file import BLOCK_ROWS, parsed_blocks
from src.watching.metrics import ProgressiveMetrics, Scores


@dataclass
class Evaluation:
    """The result.

    Attributes:
        metrics: The scores of the good rows.
        oov: int64[26], rows out of vocabulary by column, missing values included.
        missing: int64[26], rows without a value by column.
        bad_rows: Lines that are not rows.
    """

    metrics: ProgressiveMetrics = field(default_factory=lambda: ProgressiveMetrics(1))
    oov: Array = field(default_factory=lambda: np.zeros(CATEGORICAL_SIZE, dtype=np.int64))
    missing: Array = field(default_factory=lambda: np.zeros(CATEGORICAL_SIZE, dtype=np.int64))
    bad_rows: int = 0

    def scores(self) -> Scores:
        """The scores of all good rows."""
        return self.metrics.life().scores()


def evaluate(
    scorer: Scorer,
    data: PathLike,
    skip: int,
    limit: int | None,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
) -> Evaluation:
    """Scores the rows of a file.

    Args:
        scorer: The model and its features.
        data: The file.
        skip: Lines to skip at the beginning.
        limit: Largest number of lines to read, None for all.
        max_bad_fraction: See ``BadRowGuard``.

    Raises:
        RowFileError: As for ``parsed_blocks``.
        EvaluationError: There is no row.
    """
    found = Evaluation()
    with tqdm(desc="scored", unit=" rows", disable=None) as progress:
        for lines, parsed in parsed_blocks(data, skip, limit, max_bad_fraction):
            found.bad_rows += len(parsed.bad)
            if len(parsed.label):
                inputs, oov = scorer.inputs(parsed)
                found.metrics.add(_logits(scorer.network, inputs), parsed.label)
                found.oov += count_oov(oov)
                found.missing += np.count_nonzero(parsed.codes < 0, axis=0)
            progress.update(lines)
    if not found.scores().rows:
        raise EvaluationError(f"no rows to score in {data}")
    return found


def _logits(network: PredictNet, inputs: Sequence[Array]) -> Array:
    """float32[rows, 1]; short batches are padded, as each shape would compile a graph."""
    rows = len(inputs[0])
    missing = ((0, BLOCK_ROWS - rows), (0, 0))
    logit = network(*(ms.Tensor(np.pad(values, missing)) for values in inputs))[0]
    found: Array = logit.asnumpy()[:rows]
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
