"""Rows of ids that were taken back are those of a model that never saw them."""

from __future__ import annotations

import dataclasses

import mindspore as ms
import numpy as np
import pytest

from benchmarks.documented.step import DOCUMENTED_CONFIG
from src.model.row_reset import IDS_AT_ONCE, RowReset
from src.model.train_step import TrainStepWrap
from src.model.wide_and_deep import NetWithLossClass, WideDeepModel

VOCAB_SIZE = 2 * IDS_AT_ONCE + 50


@pytest.fixture(params=["adam", "adagrad"])
def network(request: pytest.FixtureRequest) -> TrainStepWrap:
    optimizer: str = request.param
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    config = dataclasses.replace(
        DOCUMENTED_CONFIG,
        batch_size=4,
        vocab_size=VOCAB_SIZE,
        emb_dim=3,
        deep_layer_dim=(4,),
        sparse=True,
        wide_initial_accumulator=1e-5,
        table_optimizer=optimizer,
    )
    network = TrainStepWrap(NetWithLossClass(WideDeepModel(config), config), config)
    network.set_train()
    draw = np.random.default_rng(1)
    for _ in range(5):
        ids = draw.integers(0, VOCAB_SIZE, (4, 39)).astype(np.int32)
        weights = np.ones((4, 39), dtype=np.float32)
        labels = draw.integers(0, 2, (4, 1)).astype(np.float32)
        network(*map(ms.Tensor, (ids, weights, labels)))
    return network


@pytest.mark.parametrize("number", [1, IDS_AT_ONCE, IDS_AT_ONCE + 3])
def test_every_table_is_reset_at_the_ids_and_nowhere_else(
    network: TrainStepWrap, number: int
) -> None:
    tables = network.row_state()
    ids = np.random.default_rng(2).permutation(VOCAB_SIZE)[:number].astype(np.int32)
    others = np.setdiff1d(np.arange(VOCAB_SIZE), ids)
    before = [table.asnumpy().copy() for table, _ in tables]
    RowReset(tables)(ids)
    for (table, fresh), old in zip(tables, before):
        now = table.asnumpy()
        assert (now[ids] == np.float32(fresh)).all(), table.name
        np.testing.assert_array_equal(now[others], old[others])


def test_all_parameters_with_a_row_for_each_id_are_among_them(network: TrainStepWrap) -> None:
    listed = {table.name for table, _ in network.row_state()}
    tables = {item.name for item in network.get_parameters() if item.shape[:1] == (VOCAB_SIZE,)}
    assert listed == tables
