"""Windows of sample rows."""

from __future__ import annotations

import numpy as np

from benchmarks.stages import features as stage_features
from src.channel.window import Provenance, make_window
from src.dictionaries.dictionaries import Dictionaries
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array

ROWS = 40


def window_of(values: list[bytes], dictionaries: Dictionaries) -> Array:
    builder = FeatureBuilder(dictionaries)
    ids, weights, labels = stage_features.features(values, builder)
    zeros = np.zeros(len(values), dtype=np.int64)
    provenance = Provenance(zeros.astype(np.int32), zeros, zeros, zeros)
    return make_window(ids, weights, labels, provenance, 1, 0, 0, builder.oov(ids))
