"""One absurd integer does no more to the weights and to the log loss than a large value does."""

from __future__ import annotations

import dataclasses

import mindspore as ms
import numpy as np
import pytest

from benchmarks.documented.step import DOCUMENTED_CONFIG, own_step
from src.features.feature_builder import FeatureBuilder
from src.model.train_step import TrainStepWrap
from src.process.arrays import Array
from src.rows.criteo import DENSE_COLUMNS
from src.rows.parsing import parse_messages
from src.watching.metrics import ProgressiveMetrics
from tests.features.made import make_dictionaries
from tests.rows.messages import INT64_MAX, INT64_MIN, PLAIN, with_field

CONFIG = dataclasses.replace(
    DOCUMENTED_CONFIG, batch_size=4, vocab_size=1000, emb_dim=4, deep_layer_dim=(8, 4)
)
STEPS = 20


def row_of(value: int) -> bytes:
    """A row with the same value in each dense column."""
    fields = PLAIN.split(b"\t")
    fields[1 : 1 + len(DENSE_COLUMNS)] = [b"%d" % value] * len(DENSE_COLUMNS)
    return b"\t".join(fields)


def log_loss_of(step: TrainStepWrap, ids: Array, weights: Array, label: Array) -> float:
    logit = step.model(ms.Tensor(ids), ms.Tensor(weights)).asnumpy()
    metrics = ProgressiveMetrics(1)
    metrics.add(logit, label)
    found = metrics.life().scores().log_loss
    assert found is not None
    return found


@pytest.mark.parametrize("absurd", [INT64_MAX, INT64_MIN])
@pytest.mark.parametrize("transform", ["minmax", "log", "bucket"])
def test_it_neither_spoils_the_weights_nor_the_log_loss(transform: str, absurd: int) -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    features = FeatureBuilder(make_dictionaries(), transform, CONFIG.vocab_size)
    rows = parse_messages([row_of(absurd), with_field("label", b"0"), PLAIN, PLAIN])
    assert len(rows.label) == 4
    ids, weights = features.build(rows)
    label = rows.label.reshape(-1, 1)
    step = own_step(CONFIG, seed=1)
    before = log_loss_of(step, ids, weights, label)
    assert before < 2.0
    for _ in range(STEPS):
        step(*map(ms.Tensor, (ids, weights, label)))
    assert log_loss_of(step, ids, weights, label) < before
    table = step.model.embedding_table.asnumpy()
    assert np.abs(table).max() < 0.2
    with_other_label = log_loss_of(step, ids[:1], weights[:1], 1 - label[:1])
    assert with_other_label < 60.0  # of one row: nothing in the mean over a stream


@pytest.mark.parametrize(("absurd", "bound"), [(INT64_MAX, 9 * 13), (INT64_MIN, -13)])
def test_with_minmax_it_is_the_bound_of_its_column(absurd: int, bound: int) -> None:
    features = FeatureBuilder(make_dictionaries())
    ids, weights = features.build(parse_messages([row_of(absurd), row_of(bound)]))
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_array_equal(weights[0], weights[1])
