"""StreamingDataset on windows handed to it directly: order, ledger, sessions, gaps and stops."""

from __future__ import annotations

import time
from typing import cast

import numpy as np
import pytest

from src.channel.batches import FILLER_LABEL
from src.channel.engine import ChannelError
from src.channel.receiver import WindowReceiver
from src.channel.window import Provenance, make_window
from src.dictionaries.growing.growth import Growth
from src.dictionaries.growing.vocabulary import GrowthSettings
from src.dictionaries.oov import UnknownValues
from src.process.arrays import Array
from src.process.stop import IdleLimit, StopFlag
from src.rows.criteo import CATEGORICAL_SIZE, FIELD_SIZE
from src.stream.position import GapError, Position
from src.trainer.admission import DatasetError, StreamStart
from src.trainer.dataset import StreamingDataset

SESSION = 77
DICTIONARIES = 5


class ListedWindows:
    """A receiver of windows known beforehand; an exception among them is raised instead."""

    num_shards = 1

    def __init__(self, items: list[object]) -> None:
        self._items = list(items)
        self.closed = False

    def receive(self, timeout_seconds: float, give_up: object) -> Array | None:
        if not self._items:
            return None
        item = self._items.pop(0)
        if isinstance(item, Exception):
            raise item
        return cast(Array, item)

    def close(self) -> None:
        self.closed = True


def window(
    offsets: list[int],
    partition: int = 0,
    session: int = SESSION,
    dictionaries: int = DICTIONARIES,
    starts: list[int] | None = None,
    values: list[bytes] | None = None,
    dense_transform: int = 0,
) -> Array:
    """Rows whose ids, weight and label all tell their offset."""
    rows = np.asarray(offsets, dtype=np.int64)
    return make_window(
        np.repeat(rows[:, None], FIELD_SIZE, axis=1).astype(np.int32),
        np.repeat(rows[:, None] / 10, FIELD_SIZE, axis=1).astype(np.float32),
        (rows % 2).astype(np.float32),
        Provenance(
            np.full(len(rows), partition, dtype=np.int32),
            np.asarray(starts if starts is not None else offsets, dtype=np.int64),
            rows,
            1_000_000 + rows,
        ),
        num_shards=1,
        session=session,
        dictionaries=dictionaries,
        oov=(rows * 5).astype(np.uint32) if values is None else np.ones(len(rows), np.uint32),
        unknown=None if values is None else unknown_c1(values),
        dense_transform=dense_transform,
    )


def unknown_c1(values: list[bytes]) -> UnknownValues:
    """Rows of which C1 alone is out of vocabulary."""
    cells = np.zeros((len(values), CATEGORICAL_SIZE), dtype=f"S{max(map(len, values))}")
    cells[:, 0] = values
    return UnknownValues(cells, free_ids=(500, 600))


def dataset(
    items: list[object], batch_size: int = 4, idle_seconds: float = 0.05, **options: object
) -> StreamingDataset:
    receiver = cast(WindowReceiver, ListedWindows(items))
    start = StreamStart(
        cast(Position, options.pop("position", Position({0: 0, 1: 0}))),
        SESSION,
        cast("int | None", options.pop("dictionaries", None)),
        growth=cast("Growth | None", options.pop("growth", None)),
        vocab_size=cast(int, options.pop("vocab_size", 0)),
    )
    flag = cast(StopFlag, options.pop("flag", StopFlag()))
    return StreamingDataset(
        receiver,
        start,
        batch_size,
        flag,
        attach=lambda: None,
        idle=IdleLimit(flag, idle_seconds),
        batch_seconds=cast(float, options.pop("batch_seconds", 0.0)),
    )


def offsets_of(stream: StreamingDataset) -> list[list[int]]:
    return [batch[0][:, 0].tolist() for batch in stream]


def test_batches_are_cut_across_windows_in_stream_order() -> None:
    stream = dataset([window([0, 1, 2]), window([3]), window([4, 5, 6, 7, 8, 9])])
    assert offsets_of(stream) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_batch_has_the_shapes_and_types_the_network_takes() -> None:
    ids, weights, labels = next(dataset([window([0, 1, 2, 3])]))
    assert ids.shape == weights.shape == (4, FIELD_SIZE)
    assert [ids.dtype, weights.dtype] == [np.dtype(np.int32), np.dtype(np.float32)]
    assert labels.tolist() == [[0.0], [1.0], [0.0], [1.0]]
    assert labels.dtype == np.float32
    np.testing.assert_allclose(weights[3], 0.3, rtol=1e-6)


def test_the_ledger_gives_the_position_behind_each_batch_not_behind_what_was_read_ahead() -> None:
    stream = dataset([window(list(range(12)))])
    next(stream), next(stream)
    assert stream.next_batch().position.offsets == {0: 4, 1: 0}
    record = stream.next_batch()
    assert record.position == Position({0: 8, 1: 0}, last_partition=0)
    assert (record.rows, record.dictionaries) == (4, DICTIONARIES)
    assert [(part.first_offset, part.last_offset) for part in record.ranges] == [(4, 7)]


def test_the_ledger_keeps_labels_oov_fields_and_the_newest_timestamp_of_each_batch() -> None:
    windows = [window([0, 1, 2]), window([3, 4, 5, 6, 7])]
    stream = dataset([*windows])
    next(stream), next(stream)
    first, second = stream.next_batch(), stream.next_batch()
    assert first.labels.tolist() == second.labels.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert first.oov.tolist() == [0, 5, 10, 15]
    assert second.oov.tolist() == [20, 25, 30, 35]
    assert (first.newest_timestamp, second.newest_timestamp) == (1_000_003, 1_000_007)
    for kept in (first.labels, first.oov, second.labels, second.oov):
        is_view = any(np.shares_memory(kept, rows) for rows in windows)
        assert not is_view, "a view keeps the window alive"


def test_windows_of_another_session_are_dropped_and_counted() -> None:
    stream = dataset([window([0, 1], session=1), window([0, 1, 2, 3])])
    assert offsets_of(stream) == [[0, 1, 2, 3]]
    assert stream.stale_rows == 2


def test_rows_below_the_position_are_skipped_and_counted() -> None:
    stream = dataset([window([0, 1, 2, 3, 4, 5])], position=Position({0: 2, 1: 0}))
    assert offsets_of(stream) == [[2, 3, 4, 5]]
    assert stream.skipped_rows == 2


def test_rows_that_arrive_twice_are_taken_once() -> None:
    stream = dataset([window([0, 1, 2]), window([0, 1, 2, 3, 4]), window([5, 6, 7])])
    assert offsets_of(stream) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_gap_is_an_error_that_names_partition_and_offsets() -> None:
    stream = dataset([window([0, 1]), window([5, 6])])
    with pytest.raises(GapError, match="partition 0.*offset 2 to 4"):
        next(stream)
    assert isinstance(stream.failure, GapError)


def asking_dataset(items: list[object], *later: list[object]) -> tuple[StreamingDataset, list[int]]:
    """A dataset that may ask for rows again, and the sessions it got by asking."""
    receivers = [cast(WindowReceiver, ListedWindows(each)) for each in (*reversed(later), items)]
    sessions: list[int] = []

    def read_again() -> int:
        sessions.append(SESSION + 1 + len(sessions))
        return sessions[-1]

    flag = StopFlag()
    stream = StreamingDataset(
        receivers.pop(),
        StreamStart(Position({0: 0, 1: 0}), SESSION),
        batch_size=4,
        flag=flag,
        attach=lambda: receivers.pop() if receivers else None,
        idle=IdleLimit(flag, 0.05),
        read_again=read_again,
    )
    return stream, sessions


def test_rows_missing_at_a_gap_are_asked_for_again_and_come_under_another_session() -> None:
    stream, asked = asking_dataset(
        [window([0, 1]), window([5, 6]), window([0, 1, 2, 3, 4, 5, 6, 7], session=SESSION + 1)]
    )
    assert offsets_of(stream) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert asked == [SESSION + 1]
    assert (stream.stale_rows, stream.skipped_rows) == (0, 2)


def test_a_gap_that_is_still_there_when_the_rows_were_read_again_is_an_error() -> None:
    again = window([0, 1, 5, 6], session=SESSION + 1)
    stream, asked = asking_dataset([window([0, 1]), window([5, 6]), again])
    with pytest.raises(GapError, match="partition 0.*offset 2 to 4"):
        next(stream)
    assert asked == [SESSION + 1]


def test_the_same_gap_may_be_asked_for_once_more_after_the_channel_was_lost_again() -> None:
    lost_again: list[object] = [window([0, 1]), window([5, 6]), ChannelError("gone")]
    rest: list[object] = [
        window([5, 6], session=SESSION + 1),
        window([2, 3, 4, 5], session=SESSION + 2),
    ]
    stream, asked = asking_dataset(lost_again, rest)
    assert offsets_of(stream) == [[0, 1, 2, 3]]
    assert asked == [SESSION + 1, SESSION + 2]


def test_offsets_covered_by_a_row_are_no_gap() -> None:
    stream = dataset([window([0, 1, 5, 6], starts=[0, 1, 2, 6])])
    assert offsets_of(stream) == [[0, 1, 5, 6]]


def test_other_dictionaries_in_mid_stream_are_refused_with_both_fingerprints() -> None:
    stream = dataset([window([0, 1]), window([2, 3], dictionaries=6)])
    with pytest.raises(DatasetError, match="0{15}6.*0{15}5"):
        next(stream)


def test_a_resumed_stream_insists_on_the_checkpoints_dictionaries() -> None:
    stream = dataset([window([0, 1, 2, 3])], dictionaries=9)
    with pytest.raises(DatasetError, match="fingerprint"):
        next(stream)


def test_values_are_learnt_in_stream_order_across_windows_of_any_width() -> None:
    growth = Growth(GrowthSettings(admit_count=2, expire_rows=100), vocab_size=600)
    items: list[object] = [
        window([0, 1, 2], values=[b"a", b"b", b"a"]),
        window([3, 4, 5, 6, 7], values=[b"c", b"b", b"much longer", b"much longer", b"d"]),
    ]
    stream = dataset(items, growth=growth)
    ids = [batch[0][:, 13].tolist() for batch in stream]
    assert ids == [[500, 1, 500, 3], [501, 502, 502, 7]]
    first, second = stream.next_batch(), stream.next_batch()
    assert first.oov.tolist() == [0, 1, 0, 1]
    assert first.change is not None and second.change is not None
    assert [first.change.values, second.change.values] == [[b"a"], [b"b", b"much longer"]]


@pytest.mark.parametrize(("has_values", "has_growth"), [(True, False), (False, True)])
def test_a_consumer_that_was_told_otherwise_about_growing_is_refused(
    has_values: bool, has_growth: bool
) -> None:
    growth = Growth(GrowthSettings(1, 100), 600) if has_growth else None
    items: list[object] = [window([0], values=[b"a"] if has_values else None)]
    with pytest.raises(DatasetError, match="--admit_count"):
        next(dataset(items, growth=growth))


def test_a_consumer_with_another_dense_transform_is_refused_by_name() -> None:
    with pytest.raises(DatasetError, match="--dense_transform=log, .*--dense_transform=minmax"):
        next(dataset([window([0], dense_transform=1)]))


def test_the_first_batch_with_an_id_beyond_the_table_is_an_error() -> None:
    stream = dataset([window(list(range(12)))], vocab_size=6)
    next(stream)
    with pytest.raises(DatasetError, match="ids up to 7, the trainer's vocab_size is 6"):
        next(stream)
    assert isinstance(stream.failure, DatasetError)


def test_a_lost_channel_is_attached_again_and_the_stream_goes_on() -> None:
    first = ListedWindows([window([0, 1]), ChannelError("gone")])
    second = ListedWindows([window([0, 1, 2, 3])])
    receivers = [second, first]
    stream = StreamingDataset(
        cast(WindowReceiver, receivers.pop()),
        StreamStart(Position({0: 0}), SESSION),
        batch_size=4,
        flag=StopFlag(),
        attach=lambda: cast(WindowReceiver, receivers.pop()),
    )
    assert next(stream)[0][:, 0].tolist() == [0, 1, 2, 3]
    assert first.closed


def test_the_stop_flag_ends_a_waiting_iteration() -> None:
    flag = StopFlag()
    flag.set("test")
    stream = dataset([window([0, 1, 2, 3])], flag=flag)
    with pytest.raises(StopIteration):
        next(stream)
    assert stream.failure is None


def test_an_idle_stream_sets_the_stop_flag_and_says_why() -> None:
    flag = StopFlag()
    assert offsets_of(dataset([window([0, 1])], flag=flag)) == []
    assert flag.is_set()
    assert flag.reason == "no rows for 0.05 s"


# --- batches closed by time


def test_rows_that_wait_too_long_are_trained_though_their_batch_is_not_full() -> None:
    stream = dataset([window([0, 1, 2, 3, 4, 5])], idle_seconds=0.3, batch_seconds=0.05)
    full, part = list(stream)
    assert [len(values) for values in part] == [4, 4, 4], "one shape for all"
    assert full[2].ravel().tolist() == [0, 1, 0, 1]
    assert part[2].ravel().tolist() == [0, 1, FILLER_LABEL, FILLER_LABEL]
    assert part[0][:, 0].tolist() == [4, 5, 4, 5], "fillers have the ids of rows of the batch"
    first, second = stream.next_batch(), stream.next_batch()
    assert first.is_row is None
    assert second.position == Position({0: 6, 1: 0}, last_partition=0)
    assert [(part.first_offset, part.last_offset) for part in second.ranges] == [(4, 5)]
    assert (second.rows, second.newest_timestamp) == (2, 1_000_005)
    assert second.labels.tolist() == [0, 1]
    assert second.oov.tolist() == [20, 25]


def test_the_ledger_tells_the_networks_outputs_for_rows_from_those_for_fillers() -> None:
    stream = dataset([window([0, 1, 2, 3, 4])], idle_seconds=0.3, batch_seconds=0.05)
    assert len(list(stream)) == 2
    full, part = stream.next_batch(), stream.next_batch()
    logit = np.array([[0.1], [0.2], [0.3], [0.4]])
    assert full.of_rows(logit) is logit
    assert part.of_rows(logit).tolist() == [0.1]


def test_a_row_waits_from_when_it_came_however_many_follow() -> None:
    class Trickle(ListedWindows):
        def receive(self, timeout_seconds: float, give_up: object) -> Array | None:
            time.sleep(min(timeout_seconds, 0.02))
            return super().receive(timeout_seconds, give_up)

    stream = dataset([])
    stream._batch_seconds, stream._cutter.batch_size = 0.2, 1000
    stream._receiver = cast(WindowReceiver, Trickle([window([row]) for row in range(200)]))
    began = time.monotonic()
    labels = next(stream)[2].ravel()
    assert 0.2 <= time.monotonic() - began < 2
    assert 1 <= (labels != FILLER_LABEL).sum() < 100


def test_rows_that_came_while_a_long_step_ran_fill_the_batch_first() -> None:
    stream = dataset([window([0, 1, 2, 3, 4]), window([5, 6, 7])], batch_seconds=0.01)
    next(stream)
    time.sleep(0.05)
    assert next(stream)[0][:, 0].tolist() == [4, 5, 6, 7]


def test_without_a_time_a_batch_waits_until_it_is_full_or_the_stream_ends() -> None:
    assert offsets_of(dataset([window([0, 1, 2])], idle_seconds=0.3)) == []


def test_rows_held_when_the_channel_is_lost_do_not_wait_for_another_consumer() -> None:
    stream, asked = asking_dataset([window([0, 1]), ChannelError("gone")], [window([2, 3, 4, 5])])
    stream._batch_seconds = 60.0
    assert next(stream)[2].ravel().tolist() == [0, 1, FILLER_LABEL, FILLER_LABEL]
    assert next(stream)[0][:, 0].tolist() == [2, 3, 4, 5]
    assert asked == []


def test_how_many_rows_are_trained_is_agreed_on() -> None:
    offers: list[tuple[int, int]] = []
    answers = iter([0, 0, 2, 1])

    def rows_to_train(number: int, rows: int) -> int:
        offers.append((number, rows))
        return next(answers)

    stream = dataset([window([0, 1, 2, 3, 4, 5, 6])], idle_seconds=60, batch_seconds=0.01)
    stream._rows_to_train = rows_to_train
    labels = [next(stream)[2].ravel() for _ in range(3)]
    assert [(batch != FILLER_LABEL).sum() for batch in labels] == [4, 2, 1]
    assert offers == [(2, 3), (2, 3), (2, 3), (3, 1)]
    assert [stream.next_batch().position.offsets[0] for _ in range(3)] == [4, 6, 7]


def test_fillers_are_no_sightings_and_no_rows_of_a_growing_vocabulary() -> None:
    growth = Growth(GrowthSettings(admit_count=2, expire_rows=100), vocab_size=600)
    items: list[object] = [window([0, 1, 2, 3, 4], values=[b"a", b"b", b"c", b"d", b"e"])]
    stream = dataset(items, growth=growth, idle_seconds=0.3, batch_seconds=0.05)
    _, part = list(stream)
    assert part[0][:, 13].tolist() == [4, 4, 4, 4], "e was seen once, not four times"
    stream.next_batch()
    change = stream.next_batch().change
    assert change is not None
    assert (change.rows, change.times.tolist(), change.values) == (1, [1], [])
