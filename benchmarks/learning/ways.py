"""This project's ways to learn: each trains the real network on a file's rows."""

from __future__ import annotations

import time

import mindspore as ms
import numpy as np

from benchmarks.learning.rows import Rows
from benchmarks.learning.scores import PEERS, Learnt, judged
from benchmarks.settings import ADAPTIVE
from src.config import Config, load_config
from src.dictionaries.dictionaries import Dictionaries
from src.features.feature_builder import FeatureBuilder
from src.features.file_batches import FileBatch, batches_of_file
from src.model.networks import GetWideDeepNet
from src.model.row_reset import RowReset
from src.process.arrays import Array
from src.rows.criteo import DENSE_SIZE
from src.trainer.trainer import growth_of

WAYS = ("upstream", "documented", "sparse", "adaptive", *PEERS)


def config_of(way: str) -> Config:
    """The configuration of a way's trainer."""
    if way == "adaptive":
        return load_config([f"--config_path={ADAPTIVE}"])
    return load_config(["--sparse"] if way == "sparse" else [])


def learn(way: str, rows: Rows) -> Learnt:
    """One pass of one of our ways, in this process."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    config = config_of(way)
    network, _ = GetWideDeepNet(config)
    network.set_train()
    growth = growth_of(config, None)
    reset = RowReset(network.row_state())
    features = FeatureBuilder(rows.made.dictionaries, config.dense_transform, config.vocab_size)

    def step(batch: FileBatch) -> Array:
        ids = batch.ids
        if way == "upstream":
            ids = as_upstream_ships(ids, rows.made.dictionaries)
        inputs = (ids, *batch.inputs[1:])
        logit = network(*map(ms.Tensor, inputs))[2].asnumpy()
        if growth is not None and batch.change is not None:
            growth.follow(batch.change, reset)
        found: Array = logit.ravel()
        return found

    with_keys = config.cross_bits > 0
    source = (rows.path, features, config.batch_size, growth)
    if way == "adaptive":
        for batch in batches_of_file(*source, limit=rows.history, with_keys=with_keys):
            step(batch)
    scores, labels = [], []
    began = time.perf_counter()
    for number, batch in enumerate(batches_of_file(*source, rows.history, rows.stream, with_keys)):
        scores.append(step(batch))
        labels.append(batch.labels.ravel())
        if number == 0 and way != "adaptive":  # it compiles
            began = time.perf_counter()
    seconds = time.perf_counter() - began
    return judged(way, np.concatenate(labels), np.concatenate(scores), seconds)


def as_upstream_ships(ids: Array, dictionaries: Dictionaries) -> Array:
    """The ids that the example's own consumer makes.

    It looks categorical values up under keys that no dictionary has, so all of them are out of
    vocabulary. It counts the dense columns from 1.
    """
    shipped = ids.copy()
    shipped[:, :DENSE_SIZE] = np.arange(1, DENSE_SIZE + 1)
    shipped[:, DENSE_SIZE:] = dictionaries.oov_ids
    return shipped
