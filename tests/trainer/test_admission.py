"""Which windows fit a trainer, by the fields that its flags ask for."""

from __future__ import annotations

import numpy as np
import pytest

from src.channel.window import Provenance, make_window
from src.process.arrays import Array
from src.rows.criteo import FIELD_SIZE
from src.stream.position import Position
from src.trainer.admission import DatasetError, StreamStart, WindowAdmission


def window(with_keys: bool) -> Array:
    offset = np.arange(4, dtype=np.int64)
    keys = np.arange(4 * FIELD_SIZE, dtype=np.int32).reshape(4, FIELD_SIZE)
    return make_window(
        np.zeros((4, FIELD_SIZE), np.int32),
        np.ones((4, FIELD_SIZE), np.float32),
        np.zeros(4, np.float32),
        Provenance(np.zeros(4, np.int32), offset, offset, offset),
        num_shards=2,
        session=1,
        dictionaries=5,
        oov=np.zeros(4, np.uint32),
        keys=keys if with_keys else None,
    )[:2]


def test_rows_of_a_shard_keep_their_keys() -> None:
    admission = WindowAdmission(StreamStart(Position({0: 0}), 1, with_keys=True))
    rows = admission.due_rows(window(with_keys=True))
    assert rows["key"][:, 0].tolist() == [0, 2 * FIELD_SIZE]


@pytest.mark.parametrize("sent", [True, False])
def test_keys_that_one_side_alone_knows_of_are_refused(sent: bool) -> None:
    admission = WindowAdmission(StreamStart(Position({0: 0}), 1, with_keys=not sent))
    consumer, trainer = ("with", "without") if sent else ("without", "with")
    wanted = f"the consumer was started {consumer} --cross_bits, the trainer {trainer}"
    with pytest.raises(DatasetError, match=wanted):
        admission.due_rows(window(sent))
