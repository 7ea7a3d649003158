"""AUCMetric alone and under MindSpore's own Model.eval."""

from __future__ import annotations

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.dataset import NumpySlicesDataset
from sklearn.metrics import roc_auc_score

from benchmarks.documented.step import DOCUMENTED_CONFIG, random_batch
from src.model.wide_and_deep import PredictWithSigmoid, WideDeepModel
from src.process.arrays import Array
from src.watching.auc_metric import AUCMetric


def scored_rows(rows: int = 400) -> tuple[Array, Array]:
    random = np.random.default_rng(2)
    probability = random.random(rows).astype(np.float32)
    return probability, (random.random(rows) < probability).astype(np.float32)


def test_auc_over_several_batches_of_tensors_is_the_exact_one() -> None:
    probability, label = scored_rows()
    metric = AUCMetric()
    for part in (slice(0, 150), slice(150, None)):
        batch = [Tensor(values[part].reshape(-1, 1)) for values in (probability, label)]
        metric.update(Tensor(np.zeros_like(label[part])), *batch)
    assert metric.eval() == pytest.approx(roc_auc_score(label, probability), abs=1e-5)


def test_clear_forgets_what_was_counted() -> None:
    metric = AUCMetric()
    metric.update(0, np.array([0.9, 0.1]), np.array([0, 1]))
    metric.clear()
    metric.update(0, np.array([0.9, 0.1]), np.array([1, 0]))
    assert metric.eval() == 1.0


def test_one_class_alone_has_no_auc() -> None:
    metric = AUCMetric()
    metric.update(0, np.array([0.9, 0.1]), np.array([1, 1]))
    with pytest.raises(RuntimeError, match="AUC needs rows"):
        metric.eval()


def test_other_outputs_than_those_of_the_evaluation_network_are_refused() -> None:
    with pytest.raises(ValueError, match="not 2"):
        AUCMetric().update(np.zeros(2), np.zeros(2))


def test_model_eval_gives_the_auc_of_the_evaluation_network() -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    small = dataclasses.replace(DOCUMENTED_CONFIG, batch_size=2048, vocab_size=300, emb_dim=4)
    # Uniform weights are large enough for scores that float32 tells apart.
    config = dataclasses.replace(small, deep_layer_dim=(8,), emb_init="uniform")
    network = PredictWithSigmoid(WideDeepModel(config))
    network.set_train(False)
    rows = [tensor.asnumpy() for tensor in random_batch(config, np.random.default_rng(3))]
    dataset = NumpySlicesDataset(tuple(rows), ["id", "weight", "label"], shuffle=False).batch(512)
    model = ms.Model(network, eval_network=network, metrics={"auc": AUCMetric()})
    found = model.eval(dataset, dataset_sink_mode=False)["auc"]
    probability = network(*(Tensor(values) for values in rows))[1].asnumpy()
    assert found == pytest.approx(roc_auc_score(rows[2], probability), abs=1e-4)
