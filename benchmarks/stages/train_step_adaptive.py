"""``train_step_adaptive``: one step of ``examples/adaptive.yaml`` on batches of sample rows.

The documented way has no such step. The vocabulary has grown before, so its cost is not part of
the step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor

from benchmarks.inputs import dictionary_files, row_files
from benchmarks.report import Result
from benchmarks.settings import ADAPTIVE, Settings
from benchmarks.stages.train_step import (
    EQUAL_STEPS,
    measured,
    numbers_of,
    peer_steps,
    timed_steps,
    with_bound_workers,
)
from benchmarks.step_limit import cross_lines, optimizer_bytes
from src.config import Config, load_config
from src.features.feature_builder import FeatureBuilder
from src.features.file_batches import batches_of_file
from src.model.model_config import ModelConfig, model_config_of
from src.model.networks import GetWideDeepNet
from src.process.arrays import Array
from src.trainer.trainer import growth_of

BATCHES = 100  # their crosses do not fit a cache
READ = (0, 2)  # the net's loss, and the logits of net and crosses


def run(settings: Settings) -> list[Result]:
    """Our step and, if asked for, PyTorch's."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    config = load_config([f"--config_path={ADAPTIVE}", f"--batch_size={settings.batches[0]}"])
    model_config, rows = model_config_of(config), rows_of_batches(settings, config)
    batches = [tuple(map(Tensor, batch)) for batch in rows]
    step, _ = GetWideDeepNet(config)
    step.set_train()
    with peer_steps(settings, "adaptive", step.step.model, model_config, batches) as peer:
        losses = numbers_of(step, batches[:EQUAL_STEPS], READ)
        ways = {"ours": with_bound_workers(timed_steps(step, batches, READ))}
        moved = moved_bytes(model_config, rows)
        name = "train_step_adaptive"
        return [measured(name, settings, ways, model_config, moved, peer, losses)]


def rows_of_batches(settings: Settings, config: Config) -> list[tuple[Array, ...]]:
    """Sample rows as (ids, weights, labels, keys), with the ids of a growing vocabulary."""
    size = config.batch_size
    (path,) = row_files(settings.work_dir, BATCHES * size, parts=1)
    dictionaries = dictionary_files(settings.work_dir).load()
    features = FeatureBuilder(dictionaries, config.dense_transform, config.vocab_size)
    found = batches_of_file(path, features, size, growth_of(config, None), with_keys=True)
    return [batch.inputs for batch in itertools.islice(found, BATCHES)]


def moved_bytes(config: ModelConfig, batches: Sequence[Sequence[Array]]) -> int:
    """Bytes that a typical step must move."""
    rows = int(np.median([len(np.unique(ids)) for ids, *_ in batches]))
    lines = int(np.median([cross_lines(config, keys) for *_, keys in batches]))
    return optimizer_bytes(config, rows, lines)
