"""Which windows fit a trainer, by the fields that its flags ask for."""

from __future__ import annotations

import numpy as np
import pytest

from src.channel.window import Provenance, make_window
from src.process.arrays import Array
from src.rows.criteo import FIELD_SIZE
from src.stream.position import Position
from src.trainer.admission import (
    FOREIGN_SECONDS,
    DatasetError,
    StreamStart,
    WindowAdmission,
)


def window(with_keys: bool, session: int = 1, first: int = 0) -> Array:
    offset = np.arange(first, first + 4, dtype=np.int64)
    keys = np.arange(4 * FIELD_SIZE, dtype=np.int32).reshape(4, FIELD_SIZE)
    return make_window(
        np.arange(4 * FIELD_SIZE, dtype=np.int32).reshape(4, FIELD_SIZE),
        np.ones((4, FIELD_SIZE), np.float32),
        np.zeros(4, np.float32),
        Provenance(np.zeros(4, np.int32), offset, offset, offset),
        num_shards=2,
        session=session,
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


def test_ids_beyond_the_table_are_refused_with_both_numbers() -> None:
    ids = window(with_keys=False)["id"]
    largest = int(ids.max())
    for vocab_size in (0, largest + 1):
        start = StreamStart(Position({0: 0}), 1, vocab_size=vocab_size)
        WindowAdmission(start).check_ids(ids)
    start = StreamStart(Position({0: 0}), 1, vocab_size=largest)
    wanted = f"ids up to {largest}, the trainer's vocab_size is {largest}"
    with pytest.raises(DatasetError, match=wanted):
        WindowAdmission(start).check_ids(ids)


class Clocked:
    """An admission whose clock stands still until it is moved, and how often it asked for rows."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        start = StreamStart(Position({0: 0}), 1)
        self.admission = WindowAdmission(start, self._read_again, lambda: self.now)

    def _read_again(self) -> int:
        self.asked += 1
        return 1 + self.asked

    def take(self, session: int, first: int = 0) -> int:
        rows = self.admission.due_rows(window(False, session, first))
        self.admission.take_stream_back()
        return len(rows)


def test_rows_are_asked_for_when_only_windows_of_another_session_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clocked = Clocked()
    for second in range(int(FOREIGN_SECONDS)):
        clocked.now = float(second)
        assert clocked.take(session=0) == 0
    assert clocked.asked == 0
    clocked.now = FOREIGN_SECONDS
    clocked.admission.take_stream_back()
    assert clocked.asked == 1
    assert "only windows of session 0 came" in caplog.text
    assert clocked.take(session=1) == 0, "that of before is over"
    assert clocked.take(session=2) == 2
    assert clocked.admission.stale_rows == 2 * (FOREIGN_SECONDS + 1)


def test_windows_of_an_earlier_session_are_dropped_in_peace_while_own_ones_come() -> None:
    clocked = Clocked()
    for step in range(20):
        clocked.now = FOREIGN_SECONDS * step / 2
        clocked.take(session=1, first=4 * step)
        clocked.take(session=0)
    assert clocked.asked == 0


def test_windows_whose_rows_were_all_taken_are_no_reason_to_ask() -> None:
    clocked = Clocked()
    assert clocked.take(session=1) == 2
    for second in range(20):
        clocked.now = float(second)
        clocked.take(session=0)
    assert clocked.asked == 0
    clocked.take(session=0, first=4)
    clocked.now += FOREIGN_SECONDS
    clocked.take(session=0)
    assert clocked.asked == 1


def test_a_trainer_that_can_ask_nobody_drops_them() -> None:
    admission = WindowAdmission(StreamStart(Position({0: 0}), 1), clock=iter(range(99)).__next__)
    for _ in range(20):
        assert len(admission.due_rows(window(False, session=0))) == 0
        admission.take_stream_back()
