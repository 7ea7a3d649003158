"""The place where ``AUCMetric`` is documented; its code is in ``src/watching/auc_metric.py``."""

from src.watching.auc_metric import AUCMetric

__all__ = ["AUCMetric"]
