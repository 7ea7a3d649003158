"""AUC as one of MindSpore's metrics, for ``Model.eval``."""

from __future__ import annotations

from typing import Any

from mindspore.train import Metric

from src.watching.metrics import ProgressiveMetrics, logit_of


class AUCMetric(Metric):  # type: ignore[misc]
    """Area under the ROC curve of the evaluation network's outputs.

    ``Model(network, eval_network=PredictWithSigmoid(model), metrics={"auc": AUCMetric()})``
    makes ``model.eval(dataset)["auc"]`` this area.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Forgets all rows."""
        self._metrics = ProgressiveMetrics(window_rows=1)

    def update(self, *inputs: Any) -> None:
        """Counts a batch.

        Args:
            *inputs: What ``PredictWithSigmoid`` returns: (logit, probability, label), each [batch]
                or [batch, 1]; the logit is not used.

        Raises:
            ValueError: They are not three, or can't be probabilities and labels.
        """
        if len(inputs) != 3:
            raise ValueError(f"AUCMetric needs logit, probability and label, not {len(inputs)}")
        probability, label = (self._convert_data(value) for value in inputs[1:])
        self._metrics.add(logit_of(probability), label)

    def eval(self) -> float:
        """The AUC.

        Raises:
            RuntimeError: The rows are all clicks, or hold none; or there were no rows.
        """
        auc = self._metrics.life().scores().auc
        if auc is None:
            raise RuntimeError("AUC needs rows with a click and rows without one")
        return auc
